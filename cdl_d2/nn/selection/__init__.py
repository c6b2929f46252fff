"""Channel ranking and selection."""
