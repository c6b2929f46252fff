"""A DatasetMapper whose items come from a latent store: nothing is encoded."""

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
    """Reads a variant of an image, drawn at random in training, and lets annotations and label maps
    follow it.

    The image itself is read only for a teacher.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        store: LatentStore,
        variants: Sequence[Variant],
        with_image: bool,
        **kwargs,
    ):
        """
        Args:
            store: of the data set.
            variants: to draw from.
            with_image: whether items have `image` as well, of the same geometry.
            kwargs: those of DatasetMapper; augmentations are not used.

        Raises:
            CdlError: if the store lacks one of the variants, or images failed to be encoded.
        """
        super().__init__(is_train, **kwargs)
        store.require(variants)
        store.require_all_images()
        self._store, self._variants, self._with_image = store, variants, with_image

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        return {
            **super().from_config(cfg, is_train),
            "store": open_store(cfg, is_train),
            "variants": variants_of(cfg, is_train),
            "with_image": is_train and ModelTraits.from_config(cfg).needs_image,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As DatasetMapper, with `latent`, `codec_identity`, `image_size`, `bits` and
        `image_crc32`.

        Raises:
            CdlError: see LatentStore.read; and if another image was stored.
        """
        item = copy.deepcopy(dataset_dict)
        variant = self._variants[np.random.randint(len(self._variants))]
        self._store.check_image(Path(item["file_name"]))
        stored = self._store.read(item["file_name"], variant)
        size = stored["image_size"]
        labels = None
        if "sem_seg_file_name" in item:
            labels = read_label_map(item.pop("sem_seg_file_name"))
            item["height"], item["width"] = labels.shape
        original = item["height"], item["width"]
        if variant.size(*original) != size:
            raise CdlError(
                f"the store has an image of {size} pixels for {item['file_name']}, "
                f"which should have {variant.size(*original)} of its {original}: is it another?"
            )
        transforms = T.TransformList([T.ResizeTransform(*original, *size)])
        if variant.flip:
            transforms += T.HFlipTransform(size[1])
        if self._with_image:
            image = read_pixels(item["file_name"], self.image_format).permute(1, 2, 0).numpy()
            utils.check_image_size(item, image)
            pixels = np.ascontiguousarray(transforms.apply_image(image).transpose(2, 0, 1))
            item["image"] = torch.as_tensor(pixels)
        if labels is not None and self.is_train:
            labels = np.ascontiguousarray(transforms.apply_segmentation(labels))
            item["sem_seg"] = torch.as_tensor(labels.astype("long"))
        annotated = self.is_train and "annotations" in item
        if annotated:
            self._transform_annotations(item, transforms, size)
        else:
            item.pop("annotations", None)
        return item | stored | {"image_crc32": compute_crc32(item.get("image"))}


def open_store(cfg: CfgNode, is_train: bool) -> LatentStore:
    """The latent store of INPUT.LATENT_STORE_TRAIN or INPUT.LATENT_STORE_TEST.

    Raises:
        CdlError: if none is named, or the model does not look at latents; see LatentStore.
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
            "a latent store has one quality, and the model is trained on several: set "
            "INPUT.LATENT_SOURCE model or mapper"
        )
    return LatentStore(cfg.INPUT[key], *build_coded_input(cfg).on_cpu().codecs)


def variants_of(cfg: CfgNode, is_train: bool) -> list[Variant]:
    """The variants that Detectron2's augmentations would make with this config.

    Raises:
        CdlError: if there are endlessly many: crops, or sizes from a range; or vertical flips.
    """
    if not is_train:
        return [Variant(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]
    if cfg.INPUT.CROP.ENABLED or cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING != "choice":
        raise CdlError(
            "a latent store has a few sizes of an image: set INPUT.CROP.ENABLED False and "
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
