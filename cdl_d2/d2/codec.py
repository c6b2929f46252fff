"""The codec that a config names."""

from __future__ import annotations

from detectron2.config import CfgNode

from cdl_d2.codec import Codec
from cdl_d2.codec.codec import shared_codec


def build_codec(cfg: CfgNode) -> Codec:
    """The codec of MODEL.CODEC; equal choices share one instance, since codecs are frozen."""
    codec = cfg.MODEL.CODEC
    return shared_codec(codec.NAME, codec.QUALITY, codec.METRIC, codec.WEIGHTS, codec.MEANING)
