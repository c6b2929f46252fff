"""Mappers of detectors and segmentation models."""

from __future__ import annotations

import detectron2.data.transforms as T
from detectron2.config import CfgNode

from cdl_d2.d2.config import check_source
from cdl_d2.d2.data.encoding_mapper import Mapper, add_encoding
from cdl_d2.d2.data.image_mapper import ImageMapper
from cdl_d2.d2.data.store_mapper import StoredLatentMapper


def build_detection_mapper(
    cfg: CfgNode, is_train: bool, augmentations: list[T.Augmentation] | None = None
) -> Mapper:
    """Build the mapper for INPUT.DOMAIN and INPUT.LATENT_SOURCE.

    Args:
        cfg: config of the model.
        is_train: True for training.
        augmentations: instead of those of the config; not applied to latents from a store.

    Raises:
        CdlError: for an unknown source, or a store that does not fit the config.
    """
    if cfg.MODEL.KEYPOINT_ON and not is_train:  # Detectron2 reads flips of the training data
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.KEYPOINT_ON = False
    if check_source(cfg) == "store" and cfg.INPUT.DOMAIN != "image":
        return StoredLatentMapper(cfg, is_train)
    options = {} if augmentations is None else {"augmentations": augmentations}
    return add_encoding(ImageMapper(cfg, is_train, **options), cfg, is_train)


def build_segmentation_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """Build the mapper of a segmentation model, in training with DeepLab's augmentations.

    These are resizing, a crop with at most INPUT.CROP.SINGLE_CATEGORY_MAX_AREA of one class, and
    flips.
    """
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
