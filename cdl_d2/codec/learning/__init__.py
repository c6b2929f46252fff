"""Training codecs, alone or together with a task."""
