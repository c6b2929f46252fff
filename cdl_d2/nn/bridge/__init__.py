"""Input adapters (bridges) that replace the first layers of an RGB model."""
