"""What training code sees of its job, and what happens between two of its steps."""
