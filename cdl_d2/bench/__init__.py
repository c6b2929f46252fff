"""Measurements: multiply-adds, time, memory, and rate against accuracy."""
