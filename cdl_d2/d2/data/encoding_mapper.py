"""A mapper that encodes, and the mappers of detectors and segmentors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import CfgNode

from cdl_d2.d2.config import check_source
from cdl_d2.d2.data.image_mapper import ImageMapper
from cdl_d2.d2.data.store_mapper import StoredLatentMapper
from cdl_d2.d2.modeling.coded_input import build_coded_input

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class EncodingMapper:
    """A mapper, and behind it the encoder, on the CPU, where the loader's workers are.

    Args:
        mapper: gives items with `image`.
        cfg: says what the model looks at.
        is_train: in training, sizes are estimated for a gate only, and the quality is drawn of
            those that the model reads.
    """

    def __init__(self, mapper: Mapper, cfg: CfgNode, is_train: bool):
        self._mapper, self._training = mapper, is_train
        self._coded_input = build_coded_input(cfg).on_cpu()
        self._with_bits = not is_train or cfg.MODEL.SELECTION.KIND == "gate"

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The mapper's item, with the keys of CodedInput.encode."""
        item = self._mapper(record)
        return self._coded_input.encode(item, with_bits=self._with_bits, training=self._training)


def encode_where_asked(mapper: Mapper, cfg: CfgNode, is_train: bool) -> Mapper:
    """The mapper, inside an EncodingMapper if INPUT.LATENT_SOURCE is `mapper`."""
    wanted = cfg.INPUT.LATENT_SOURCE == "mapper" and cfg.INPUT.DOMAIN != "image"
    return EncodingMapper(mapper, cfg, is_train) if wanted else mapper


def build_detection_mapper(
    cfg: CfgNode, is_train: bool, augmentations: list[T.Augmentation] | None = None
) -> Mapper:
    """The mapper for INPUT.DOMAIN and INPUT.LATENT_SOURCE.

    Args:
        augmentations: instead of Detectron2's of the config; a store has none.

    Raises:
        CdlError: for an unknown source, or a store that cannot be used.
    """
    if cfg.MODEL.KEYPOINT_ON and not is_train:  # whose flips are those of a data set for training
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.KEYPOINT_ON = False
    source = check_source(cfg)
    if source == "store" and cfg.INPUT.DOMAIN != "image":
        return StoredLatentMapper(cfg, is_train)
    options = {} if augmentations is None else {"augmentations": augmentations}
    return encode_where_asked(ImageMapper(cfg, is_train, **options), cfg, is_train)


def build_segmentation_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
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
