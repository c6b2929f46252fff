"""Latent <-> strings: quantization, the entropy model, and the range coder."""
