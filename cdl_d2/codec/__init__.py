"""Image <-> latent <-> bitstream, with frozen learned codecs."""

from cdl_d2.codec.bitstream import Bitstream, BitstreamError
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE, CodecIdentity, Latent, cell_size

__all__ = [
    "STRIDE",
    "Bitstream",
    "BitstreamError",
    "Codec",
    "CodecIdentity",
    "Latent",
    "cell_size",
]
