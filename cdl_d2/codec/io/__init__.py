"""Image files, weights files and folders."""
