"""A DatasetMapper that encodes, and the mappers of detectors and segmentors."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper

from cdl_d2.d2.config import LATENT_SOURCES
from cdl_d2.d2.data.store_mapper import StoredLatentMapper
from cdl_d2.d2.modeling.coded_input import build_coded_input
from cdl_d2.errors import CdlError
from cdl_d2.nn.coded_input import CodedInput


def input_of_worker(cfg: CfgNode) -> CodedInput:
    """What the model looks at, with a codec on the CPU, where the loader's workers are."""
    shown = build_coded_input(cfg)
    return replace(shown, codec=copy.deepcopy(shown.codec).cpu())


def worker_needs_bits(cfg: CfgNode, is_train: bool) -> bool:
    """Whether sizes are read of what a worker encodes: in evaluation, and by a gate."""
    return not is_train or cfg.MODEL.SELECTION.KIND == "gate"


class LatentDatasetMapper(DatasetMapper):
    """Detectron2's DatasetMapper, then the encoder in the loader's workers."""

    @configurable
    def __init__(self, is_train: bool, *, coded_input: CodedInput, with_bits: bool, **kwargs):
        """
        Args:
            coded_input: of the model; its codec on the CPU.
            with_bits: whether to estimate sizes.
            kwargs: those of DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        self._coded_input, self._with_bits = coded_input, with_bits

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            **super().from_config(cfg, is_train),
            "coded_input": input_of_worker(cfg),
            "with_bits": worker_needs_bits(cfg, is_train),
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As DatasetMapper, with the keys of CodedInput.encode."""
        item = super().__call__(dataset_dict)
        return self._coded_input.encode(item, with_bits=self._with_bits)


def build_detection_mapper(
    cfg: CfgNode, is_train: bool, augmentations: list[T.Augmentation] | None = None
) -> DatasetMapper:
    """The mapper for INPUT.DOMAIN and INPUT.LATENT_SOURCE.

    Args:
        augmentations: instead of Detectron2's of the config; a store has none.

    Raises:
        CdlError: for an unknown source, or a store that cannot be used.
    """
    source = check_source(cfg)
    if source == "store" and cfg.INPUT.DOMAIN != "image":
        return StoredLatentMapper(cfg, is_train)
    options = {} if augmentations is None else {"augmentations": augmentations}
    encodes = source == "mapper" and cfg.INPUT.DOMAIN != "image"
    return (LatentDatasetMapper if encodes else DatasetMapper)(cfg, is_train, **options)


def check_source(cfg: CfgNode) -> str:
    """INPUT.LATENT_SOURCE, or CdlError for an unknown one."""
    source = cfg.INPUT.LATENT_SOURCE
    if source not in LATENT_SOURCES:
        raise CdlError(f"INPUT.LATENT_SOURCE {source!r} is not one of {', '.join(LATENT_SOURCES)}")
    return source


def build_segmentation_mapper(cfg: CfgNode, is_train: bool) -> DatasetMapper:
    """As build_detection_mapper, with the augmentations of DeepLab in training: sizes, a crop (see
    INPUT.CROP.SINGLE_CATEGORY_MAX_AREA), and flips."""
    if not is_train:
        return build_detection_mapper(cfg, is_train)
    sizes = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    augmentations: list[T.Augmentation] = [T.ResizeShortestEdge(*sizes)]
    if cfg.INPUT.CROP.ENABLED:
        crop, ignored = cfg.INPUT.CROP, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        area = crop.SINGLE_CATEGORY_MAX_AREA
        augmentations.append(
            T.RandomCrop_CategoryAreaConstraint(crop.TYPE, crop.SIZE, area, ignored)
        )
    if cfg.INPUT.RANDOM_FLIP != "none":
        vertical = cfg.INPUT.RANDOM_FLIP == "vertical"
        augmentations.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    return build_detection_mapper(cfg, is_train, augmentations)
