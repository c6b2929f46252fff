"""Networks of codecs whose decoder is a generator, trained against a discriminator."""
