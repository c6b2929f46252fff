"""Mapper that reads latents from a store instead of encoding images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils

from cdl_d2.codec.io.image_files import read_label_map
from cdl_d2.d2.data.image_mapper import AnnotatedMapper, read_pixels
from cdl_d2.d2.model_input import ModelTraits, build_coded_input
from cdl_d2.data import LatentStore, Variant
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.sample import compute_crc32


class StoredLatentMapper(AnnotatedMapper):
    """Reads a stored variant of an image, and transforms annotations and label maps to fit it.

    In training, the variant is sampled at random. The image itself is read only for a teacher.

    Args:
        is_train: True for training.
        store: latent store of the data set.
        variants: variants to draw from.
        with_image: True to add `image`, resized and flipped like the variant.
        with_margin: True to read the positions below and right of the image, too, if stored.
        kwargs: arguments of DatasetMapper; augmentations are not used.

    Raises:
        CdlError: if the store lacks a variant, or images failed to be encoded.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        store: LatentStore,
        variants: Sequence[Variant],
        with_image: bool,
        with_margin: bool = False,
        **kwargs,
    ):
        super().__init__(is_train, **kwargs)
        store.require(variants)
        store.require_all_images()
        self._store, self._variants, self._with_image = store, variants, with_image
        self._with_margin = with_margin

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            **super().from_config(cfg, is_train),
            "store": open_store(cfg, is_train),
            "variants": list_variants(cfg, is_train),
            "with_image": is_train and ModelTraits.from_config(cfg).needs_image,
            "with_margin": cfg.MODEL.BRIDGE.MARGIN,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a sample with `latent`, `codec_identity`, `image_size`, `bits` and `image_crc32`.

        Raises:
            CdlError: if the latent cannot be read, or is of another image.
        """
        sample = copy.deepcopy(dataset_dict)
        variant = self._variants[np.random.randint(len(self._variants))]
        self._store.check_image(Path(sample["file_name"]))
        stored = self._store.read(sample["file_name"], variant, with_margin=self._with_margin)
        size = stored["image_size"]
        labels = None
        if "sem_seg_file_name" in sample:
            labels = read_label_map(sample.pop("sem_seg_file_name"))
            sample["height"], sample["width"] = labels.shape
        original = sample["height"], sample["width"]
        if variant.size(*original) != size:
            raise CdlError(
                f"the store has an image of {size} pixels for {sample['file_name']}, "
                f"expected {variant.size(*original)} for its {original}: is it another image?"
            )
        transforms = T.TransformList([T.ResizeTransform(*original, *size)])
        if variant.flip:
            transforms += T.HFlipTransform(size[1])
        if self._with_image:
            image = read_pixels(sample["file_name"], self.image_format).permute(1, 2, 0).numpy()
            utils.check_image_size(sample, image)
            pixels = np.ascontiguousarray(transforms.apply_image(image).transpose(2, 0, 1))
            sample["image"] = torch.as_tensor(pixels)
        if labels is not None and self.is_train:
            labels = np.ascontiguousarray(transforms.apply_segmentation(labels))
            sample["sem_seg"] = torch.as_tensor(labels.astype("long"))
        if self.is_train and "annotations" in sample:
            self._transform_annotations(sample, transforms, size)
        else:
            sample.pop("annotations", None)
        return sample | stored | {"image_crc32": compute_crc32(sample.get("image"))}


def open_store(cfg: CfgNode, is_train: bool) -> LatentStore:
    """Open the latent store of INPUT.LATENT_STORE_TRAIN or INPUT.LATENT_STORE_TEST.

    Raises:
        CdlError: if none is named or it cannot be read, or the model does not take latents.
    """
    if cfg.INPUT.DOMAIN != "latent":
        raise CdlError(
            f"INPUT.LATENT_SOURCE store has latents only, not domain {cfg.INPUT.DOMAIN!r}"
        )
    key = "LATENT_STORE_TRAIN" if is_train else "LATENT_STORE_TEST"
    if not cfg.INPUT[key]:
        raise CdlError(f"INPUT.LATENT_SOURCE is store: set INPUT.{key} to its folder")
    if is_train and cfg.MODEL.CODEC.QUALITIES:
        raise CdlError(
            "a latent store has one quality, and the model supports several: set "
            "INPUT.LATENT_SOURCE model or mapper"
        )
    return LatentStore(cfg.INPUT[key], *build_coded_input(cfg).on_cpu().codecs)


def list_variants(cfg: CfgNode, is_train: bool) -> list[Variant]:
    """List the variants of an image that Detectron2's augmentations of the config create.

    Raises:
        CdlError: for random crops or sizes from a range, of which there are too many, or vertical
            flips.
    """
    if not is_train:
        return [Variant(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
    if cfg.INPUT.CROP.ENABLED or cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING != "choice":
        raise CdlError(
            "a latent store has a few sizes per image: set INPUT.CROP.ENABLED False and "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING choice"
        )
    if cfg.INPUT.RANDOM_FLIP not in ("none", "horizontal"):
        raise CdlError(
            f"INPUT.RANDOM_FLIP {cfg.INPUT.RANDOM_FLIP!r} is not none or horizontal, as a latent "
            "store needs"
        )
    flips = (False,) if cfg.INPUT.RANDOM_FLIP == "none" else (False, True)
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    edges = (sizes,) if isinstance(sizes, int) else sizes
    return [Variant(edge, cfg.INPUT.MAX_SIZE_TRAIN, flip) for edge in edges for flip in flips]
