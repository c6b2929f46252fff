"""Training: configs of runs, the trainer and its state."""
