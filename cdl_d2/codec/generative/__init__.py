"""Codec networks whose decoder is a generator, trained with a discriminator."""
