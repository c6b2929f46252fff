"""Metrics, independent of any backend."""
