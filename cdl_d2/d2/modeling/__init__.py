"""Meta-architectures, backbones and teachers."""
