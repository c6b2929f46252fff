"""Training, and what it leaves behind."""
