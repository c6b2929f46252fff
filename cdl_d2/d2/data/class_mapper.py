"""From a record of a folder of classes to an item of a classifier's batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torchvision.transforms import v2

from cdl_d2.codec import STRIDE
from cdl_d2.d2.config import AUGMENTATIONS, check_source
from cdl_d2.d2.data.encoding_mapper import Mapper, add_encoding
from cdl_d2.d2.data.image_mapper import read_pixels
from cdl_d2.d2.data.store_mapper import open_store
from cdl_d2.d2.model_input import ModelTraits
from cdl_d2.data import LatentStore, Variant
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.sample import compute_crc32


class ClassMapper:
    """Reads an image, crops and perhaps flips it (appendix A.3), all before encoding.

    Training with `exact` augmentation: a random crop, resized to IMAGE_SIZE, and a random flip.
    Otherwise: the shorter side resized to IMAGE_SIZE, then the central square; or the image as it
    is.

    Args:
        size: pixels a side; 0 for images as they are.
        augment: whether crops and flips are random.
        channel_order: of `image`, `BGR` or `RGB`.

    Raises:
        CdlError: for random crops of images as they are.
    """

    def __init__(self, size: int, augment: bool, channel_order: str):
        if not size and augment:
            raise CdlError(
                "INPUT.AUGMENTATION exact crops images to INPUT.IMAGE_SIZE, which is 0: set the "
                "one to latent or none, or the other to a size"
            )
        if not size:
            self._transform = v2.Identity()
        elif augment:
            random = v2.RandomResizedCrop(size, antialias=True)
            self._transform = v2.Compose([random, v2.RandomHorizontalFlip()])
        else:
            self._transform = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])
        self._channel_order = channel_order

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with `image`, 3 x size x size, or 3 x H x W, uint8.

        Raises:
            CdlError: if the file cannot be read as an image.
        """
        pixels = read_pixels(record["file_name"], self._channel_order)
        return record | {"image": self.view(pixels)}

    def view(self, pixels: torch.Tensor) -> torch.Tensor:
        """The part of an image, 3 x H x W, uint8, that an item shows."""
        return self._transform(pixels).contiguous()


class StoredClassMapper:
    """Reads latents of one size, flipped or not, from a store; nothing is encoded.

    Of an image that is not square the central cells are taken, as near to what ClassMapper crops
    as whole cells can be.

    Args:
        store: of the data set.
        variants: to draw from.
        with_scales: add scales; the store must hold bitstreams.
        channel_order: adds the image that a teacher looks at, its channels in this order; None for
            no image.
        square: whether the central cells are taken.

    Raises:
        CdlError: if the store lacks a variant, or images failed to be encoded.
    """

    def __init__(
        self,
        store: LatentStore,
        variants: list[Variant],
        with_scales: bool,
        channel_order: str | None,
        square: bool = True,
    ):
        store.require(variants)
        store.require_all_images()
        self._store, self._variants, self._with_scales = store, variants, with_scales
        self._channel_order, self._square = channel_order, square

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with what LatentStore.read gives, and `image_crc32`; for a teacher also
        `image`."""
        item = dict(record)
        variant = self._variants[int(torch.randint(len(self._variants), ()))]
        self._store.check_image(Path(item["file_name"]))
        item |= self._store.read(item["file_name"], variant, self._with_scales)
        if self._channel_order:
            item["image"] = variant.apply(read_pixels(item["file_name"], self._channel_order))
        item = central_square(item) if self._square else item
        return item | {"image_crc32": compute_crc32(item.get("image"))}


def central_square(item: dict[str, Any]) -> dict[str, Any]:
    """An item whose `latent`, `scales` and `image`, where it has them, are cut to the same square
    around the middle, on whole cells."""
    height, width = item["image_size"]
    side = min(height, width)
    top, left = (round((length - side) / 2 / STRIDE) for length in (height, width))
    cells = -(-side // STRIDE)
    cut = {"image_size": (side, side)}
    for key in item.keys() & {"latent", "scales"}:
        cut[key] = item[key][:, top : top + cells, left : left + cells]
    if "image" in item:
        y, x = top * STRIDE, left * STRIDE
        cut["image"] = item["image"][:, y : y + side, x : x + side]
    return item | cut


def build_class_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """The mapper for INPUT.DOMAIN, LATENT_SOURCE and AUGMENTATION.

    Raises:
        CdlError: for an unknown augmentation, or one that a store cannot give.
    """
    kind, source = cfg.INPUT.AUGMENTATION, check_source(cfg)
    if kind not in AUGMENTATIONS:
        raise CdlError(f"INPUT.AUGMENTATION {kind!r} is not one of {', '.join(AUGMENTATIONS)}")
    if source == "store":
        return _stored(cfg, is_train)
    mapper = ClassMapper(cfg.INPUT.IMAGE_SIZE, is_train and kind == "exact", cfg.INPUT.FORMAT)
    return add_encoding(mapper, cfg, is_train)


def _stored(cfg: CfgNode, is_train: bool) -> StoredClassMapper:
    if is_train and cfg.INPUT.AUGMENTATION == "exact":
        raise CdlError("a latent store has no random crops: set INPUT.AUGMENTATION latent or none")
    store, size = open_store(cfg, is_train), cfg.INPUT.IMAGE_SIZE
    flips = [v.flip for v in store.variants if v.short_edge == size] if is_train else [False]
    longest = next((v.max_size for v in store.variants if v.short_edge == size), size)
    variants = [Variant(size, longest, flip) for flip in flips] or [Variant(size, longest)]
    traits = ModelTraits.from_config(cfg)
    order = cfg.INPUT.FORMAT if is_train and traits.needs_image else None
    return StoredClassMapper(store, variants, traits.reads_scales, order, square=size > 0)
