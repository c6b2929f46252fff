"""Latents on disk: a store, what goes into it, and encoding whole data sets."""
