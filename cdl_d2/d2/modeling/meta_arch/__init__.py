"""Models in the compressed domain, by task."""
