"""What is needed to go on exactly: checkpoints, the place in the loops, random numbers, what steered the run."""
