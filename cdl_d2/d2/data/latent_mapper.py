"""A DatasetMapper that encodes, and the choice of a mapper."""

from __future__ import annotations

import copy
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper

from cdl_d2.codec import Codec
from cdl_d2.d2.config import LATENT_SOURCES
from cdl_d2.d2.data.class_mapper import ClassMapper, StoredClassMapper, build_class_mapper
from cdl_d2.d2.data.label_datasets import is_segmentation
from cdl_d2.d2.data.store_mapper import StoredLatentMapper
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.d2.modeling.meta_arch.classifier import is_classification
from cdl_d2.errors import CdlError
from cdl_d2.nn.coded_input import encode_item


class LatentDatasetMapper(DatasetMapper):
    """Detectron2's DatasetMapper, then the encoder in the loader's workers."""

    @configurable
    def __init__(self, is_train: bool, *, codec: Codec, domain: str, **kwargs):
        """
        Args:
            codec: stays on the CPU, where the loader's workers are.
            domain: `latent` or `reconstruction`.
            kwargs: those of DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        self._codec, self._domain = codec, domain

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            **super().from_config(cfg, is_train),
            "codec": copy.deepcopy(build_codec(cfg)).cpu(),
            "domain": cfg.INPUT.DOMAIN,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As DatasetMapper, with the keys of `encode_item`."""
        item = super().__call__(dataset_dict)
        return encode_item(item, self._codec, self.image_format, self._domain, "cpu")


def build_mapper(cfg: CfgNode, is_train: bool) -> DatasetMapper | ClassMapper | StoredClassMapper:
    """The mapper for a config's kind of model, INPUT.DOMAIN and INPUT.LATENT_SOURCE.

    Raises:
        ValueError: for an unknown source, or a store that cannot be used.
    """
    if is_classification(cfg):
        return build_class_mapper(cfg, is_train)
    source = cfg.INPUT.LATENT_SOURCE
    if source not in LATENT_SOURCES:
        raise CdlError(f"INPUT.LATENT_SOURCE {source!r} is not one of {', '.join(LATENT_SOURCES)}")
    options = {}
    if is_segmentation(cfg) and is_train and source != "store":
        options["augmentations"] = build_sem_seg_augmentations(cfg)
    if cfg.INPUT.DOMAIN == "image" or source == "model":
        return DatasetMapper(cfg, is_train, **options)
    if source == "store":
        return StoredLatentMapper(cfg, is_train)
    return LatentDatasetMapper(cfg, is_train, **options)


def build_sem_seg_augmentations(cfg) -> list[T.Augmentation]:
    """Sizes, a crop (see INPUT.CROP.SINGLE_CATEGORY_MAX_AREA), and flips, as for DeepLab."""
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
    return augmentations
