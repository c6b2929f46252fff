"""Image <-> latent <-> bitstream, with frozen learned codecs."""

import cdl_d2.codec.architectures  # noqa: F401, fills the registry
from cdl_d2.codec.bitstream.stream import Bitstream, BitstreamError
from cdl_d2.codec.choice import CodecChoice
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE, CodecIdentity, Latent, latent_grid
from cdl_d2.codec.registry import register_codec

__all__ = [
    "STRIDE",
    "Bitstream",
    "BitstreamError",
    "Codec",
    "CodecChoice",
    "CodecIdentity",
    "Latent",
    "latent_grid",
    "register_codec",
]
