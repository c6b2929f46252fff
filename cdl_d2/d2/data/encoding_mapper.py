"""Mapper that encodes images in the workers of a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from cdl_d2.d2.model_input import build_coded_input

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class EncodingMapper:
    """Applies a mapper, then encodes on the CPU.

    In training, bits are estimated only for a gate, and the quality of each image is sampled
    at random from those that the model supports.

    Args:
        mapper: from a record of a data set to a sample with `image`.
        cfg: config of the model.
        is_train: True for training.
    """

    def __init__(self, mapper: Mapper, cfg: CfgNode, is_train: bool):
        self._mapper, self._training = mapper, is_train
        self._coded_input = build_coded_input(cfg).on_cpu()
        self._with_bits = not is_train or cfg.MODEL.SELECTION.KIND == "gate"

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the mapper's sample with the keys that CodedInput.encode adds."""
        sample = self._mapper(record)
        return self._coded_input.encode(sample, with_bits=self._with_bits, training=self._training)


def add_encoding(mapper: Mapper, cfg: CfgNode, is_train: bool) -> Mapper:
    """Wrap a mapper in an EncodingMapper if INPUT.LATENT_SOURCE is `mapper`."""
    encodes = cfg.INPUT.LATENT_SOURCE == "mapper" and cfg.INPUT.DOMAIN != "image"
    return EncodingMapper(mapper, cfg, is_train) if encodes else mapper
