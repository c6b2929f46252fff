"""Data sets, mappers and the training loader."""
