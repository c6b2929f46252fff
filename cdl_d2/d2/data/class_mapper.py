"""From a record of a folder of classes to an item of a classifier's batch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from torchvision.transforms import v2

from cdl_d2.codec import Codec
from cdl_d2.d2.config import AUGMENTATIONS, LATENT_SOURCES
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.data import LatentStore, Variant
from cdl_d2.errors import CdlError
from cdl_d2.nn.coded_input import encode_item


class ClassMapper:
    """Reads an image, crops and perhaps flips it, and perhaps encodes it (appendix A.3).

    Training with `exact` augmentation: a random crop, resized to IMAGE_SIZE, and a random flip,
    all before encoding. Otherwise: the shorter side resized to IMAGE_SIZE, then the central square.

    Args:
        size: pixels a side.
        augment: whether crops and flips are random.
        image_format: order of the channels of `image`.
        codec: encodes here, on the CPU; None leaves that to the model.
        domain: `latent` or `reconstruction`, for the codec.
        with_scales: see encode_item.
    """

    def __init__(
        self,
        size: int,
        augment: bool,
        image_format: str,
        codec: Codec | None = None,
        domain: str = "latent",
        with_scales: bool = False,
    ):
        random = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
        fixed = [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
        self._transform = v2.Compose(random if augment else fixed)
        self._image_format, self._codec, self._domain = image_format, codec, domain
        self._with_scales = with_scales

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with `image`, 3 x size x size, uint8.

        Raises:
            ValueError: if the file cannot be read as an image.
        """
        item = dict(record)
        pixels = _read(item["file_name"], self._image_format)
        item["image"] = self._transform(pixels).contiguous()
        if self._codec is None:
            return item
        return encode_item(
            item, self._codec, self._image_format, self._domain, "cpu", self._with_scales
        )


class StoredClassMapper:
    """Reads latents of one size, flipped or not, from a store; nothing is encoded.

    Args:
        store: of the data set.
        variants: to draw from.
        with_scales: add scales; the store must hold bitstreams.
        image_format: adds the image that a teacher looks at, its channels in this order; None for
            no image.

    Raises:
        ValueError: if the store lacks a variant, or images failed to be encoded.
    """

    def __init__(
        self,
        store: LatentStore,
        variants: list[Variant],
        with_scales: bool,
        image_format: str | None,
    ):
        store.require(variants)
        store.require_all_images()
        self._store, self._variants, self._with_scales = store, variants, with_scales
        self._image_format = image_format

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with `latent` and what encode_item says; raises as LatentStore.read."""
        item = dict(record)
        variant = self._variants[int(torch.randint(len(self._variants), ()))]
        item |= self._store.read_item(item["file_name"], variant, self._with_scales)
        if self._image_format:
            item["image"] = variant.apply(_read(item["file_name"], self._image_format))
        return item


def build_class_mapper(cfg: CfgNode, is_train: bool) -> ClassMapper | StoredClassMapper:
    """The mapper for INPUT.DOMAIN, LATENT_SOURCE and AUGMENTATION.

    Raises:
        ValueError: for an unknown augmentation, or one that a store cannot give.
    """
    kind, source, domain = cfg.INPUT.AUGMENTATION, cfg.INPUT.LATENT_SOURCE, cfg.INPUT.DOMAIN
    if kind not in AUGMENTATIONS:
        raise CdlError(f"INPUT.AUGMENTATION {kind!r} is not one of {', '.join(AUGMENTATIONS)}")
    scales = cfg.MODEL.CLASSIFIER.NETWORK == "cresnet39" and cfg.MODEL.CLASSIFIER.SCALES
    if source not in LATENT_SOURCES:
        raise CdlError(f"INPUT.LATENT_SOURCE {source!r} is not one of {', '.join(LATENT_SOURCES)}")
    if source == "store":
        return _stored(cfg, is_train, scales)
    codec = None
    if source == "mapper" and domain != "image":
        codec = copy.deepcopy(build_codec(cfg)).cpu()
    augment = is_train and kind == "exact"
    return ClassMapper(cfg.INPUT.IMAGE_SIZE, augment, cfg.INPUT.FORMAT, codec, domain, scales)


def _read(path: str, image_format: str) -> torch.Tensor:
    """3 x H x W, uint8."""
    try:
        image = detection_utils.read_image(path, format=image_format)
    except (OSError, SyntaxError) as error:
        raise CdlError(f"{path} cannot be read as an image: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(image)).movedim(2, 0)


def _stored(cfg: CfgNode, is_train: bool, scales: bool) -> StoredClassMapper:
    key = "LATENT_STORE_TRAIN" if is_train else "LATENT_STORE_TEST"
    if cfg.INPUT.DOMAIN != "latent":
        raise CdlError(f"a latent store has nothing for domain {cfg.INPUT.DOMAIN!r}")
    if not cfg.INPUT[key]:
        raise CdlError(f"INPUT.LATENT_SOURCE is store: set INPUT.{key} to its folder")
    if is_train and cfg.INPUT.AUGMENTATION == "exact":
        raise CdlError("a latent store has no random crops: set INPUT.AUGMENTATION latent or none")
    store = LatentStore(cfg.INPUT[key], copy.deepcopy(build_codec(cfg)).cpu())
    size = cfg.INPUT.IMAGE_SIZE
    flips = [v.flip for v in store.variants if v.short_edge == size] if is_train else [False]
    longest = next((v.max_size for v in store.variants if v.short_edge == size), size)
    variants = [Variant(size, longest, flip) for flip in flips] or [Variant(size, longest)]
    taught = is_train and cfg.MODEL.META_ARCHITECTURE == "TransferClassifier"
    return StoredClassMapper(store, variants, scales, cfg.INPUT.FORMAT if taught else None)
