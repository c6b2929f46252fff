"""Mappers of classifiers: from a record of a data set to a sample."""

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
from cdl_d2.d2.model_input import ModelTraits, build_coded_input
from cdl_d2.data import LatentStore, Variant
from cdl_d2.errors import CdlError, check_choice
from cdl_d2.nn.input.coded_input import MARGIN
from cdl_d2.nn.input.sample import compute_crc32


class ClassMapper:
    """Reads an image, and crops and flips it before encoding (appendix A.3).

    With augmentation, a random crop is resized to `size`, and flipped at random. Otherwise the
    shorter side is resized to `size`, and the central square is cropped.

    Args:
        size: pixels per side; 0 for images as they are.
        augment: True for random crops and flips.
        channel_order: of `image`, `BGR` or `RGB`.

    Raises:
        CdlError: for augmentation without a size.
    """

    def __init__(self, size: int, augment: bool, channel_order: str):
        if not size and augment:
            raise CdlError(
                "INPUT.AUGMENTATION exact crops images to INPUT.IMAGE_SIZE, which is 0: set "
                "INPUT.AUGMENTATION latent or none, or INPUT.IMAGE_SIZE"
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
        """Add `image`, 3 x size x size (without a size 3 x H x W), uint8, to a record.

        Raises:
            CdlError: if the file cannot be read as an image.
        """
        pixels = read_pixels(record["file_name"], self._channel_order)
        return record | {"image": self.view(pixels)}

    def view(self, pixels: torch.Tensor) -> torch.Tensor:
        """Crop, resize and flip an image, 3 x H x W, uint8."""
        return self._transform(pixels).contiguous()


class StoredClassMapper:
    """Reads latents from a store instead of encoding images.

    The central square is cropped to whole latent positions, as close as possible to the crop of
    ClassMapper.

    Args:
        store: latent store of the data set.
        variants: variants to draw from.
        with_scales: True to add scales; the store must hold bitstreams.
        channel_order: `BGR` or `RGB` to add the image for a teacher; None for no image.
        square: True to crop the central square.
        with_margin: True to read the positions below and right of the image, too, if stored.

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
        with_margin: bool = False,
    ):
        store.require(variants)
        store.require_all_images()
        self._store, self._variants, self._with_scales = store, variants, with_scales
        self._channel_order, self._square = channel_order, square
        self._with_margin = with_margin

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Add what LatentStore.read returns, `image_crc32` and, for a teacher, `image`."""
        sample = dict(record)
        variant = self._variants[int(torch.randint(len(self._variants), ()))]
        self._store.check_image(Path(sample["file_name"]))
        reads = self._with_scales, self._with_margin
        sample |= self._store.read(sample["file_name"], variant, *reads)
        if self._channel_order:
            sample["image"] = variant.apply(read_pixels(sample["file_name"], self._channel_order))
        if self._square:
            sample = crop_central_square(sample, MARGIN if self._with_margin else 0)
        return sample | {"image_crc32": compute_crc32(sample.get("image"))}


def crop_central_square(sample: dict[str, Any], margin: int = 0) -> dict[str, Any]:
    """Crop `latent`, `scales` and `image` to the central square, at whole latent positions.

    Args:
        sample: has `image_size`, and some of these.
        margin: positions below and right of the square to keep, if there are as many.
    """
    height, width = sample["image_size"]
    if height == width:
        return sample
    side = min(height, width)
    top, left = (round((length - side) / 2 / STRIDE) for length in (height, width))
    positions = -(-side // STRIDE) + margin
    crop = {"image_size": (side, side)}
    for key in sample.keys() & {"latent", "scales"}:
        crop[key] = sample[key][:, top : top + positions, left : left + positions]
    if "image" in sample:
        y, x = top * STRIDE, left * STRIDE
        crop["image"] = sample["image"][:, y : y + side, x : x + side]
    return sample | crop


def build_class_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """Build the mapper for INPUT.DOMAIN, LATENT_SOURCE and AUGMENTATION.

    Raises:
        CdlError: for an unknown augmentation, or one that a store does not support.
    """
    augmentation, size = cfg.INPUT.AUGMENTATION, cfg.INPUT.IMAGE_SIZE
    check_choice("INPUT.AUGMENTATION", augmentation, AUGMENTATIONS)
    if check_source(cfg) == "store":
        return _stored(cfg, is_train)
    mapper = ClassMapper(size, is_train and augmentation == "exact", cfg.INPUT.FORMAT)
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
    with_margin = build_coded_input(cfg).with_margin
    return StoredClassMapper(store, variants, traits.reads_scales, order, size > 0, with_margin)
