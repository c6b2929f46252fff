"""Bitstream files: formats and layers."""
