"""Image <-> latent, with frozen learned codecs."""

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE, CodecIdentity, Latent, cell_size

__all__ = ["STRIDE", "Codec", "CodecIdentity", "Latent", "cell_size"]
