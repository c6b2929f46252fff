"""The codec that a config names."""

from __future__ import annotations

from detectron2.config import CfgNode

from cdl_d2.codec import Codec
from cdl_d2.codec.choice import CodecChoice


def build_codec(cfg: CfgNode) -> Codec:
    """The codec of MODEL.CODEC; equal choices share one instance, since codecs are frozen."""
    return CodecChoice.from_config(cfg.MODEL.CODEC).load()
