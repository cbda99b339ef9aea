"""What a run is doing, looked at from beside it: what goes wrong is said early, and costs the training nothing."""
