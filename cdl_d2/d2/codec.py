"""The codec that a config names."""

from __future__ import annotations

from functools import lru_cache

from detectron2.config import CfgNode

from cdl_d2.codec import Codec


def build_codec(cfg: CfgNode) -> Codec:
    """The codec of MODEL.CODEC; equal choices share one instance, since codecs are frozen."""
    codec = cfg.MODEL.CODEC
    return _load(codec.NAME, codec.QUALITY, codec.METRIC, codec.WEIGHTS, codec.MEANING)


@lru_cache(maxsize=4)
def _load(name: str, quality: int, metric: str, weights: str, meaning: str) -> Codec:
    return Codec.load(name, quality, metric, weights, meaning)
