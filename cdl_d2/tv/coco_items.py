"""A COCO-format data set as samples, resized and flipped before they are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from cdl_d2.codec.io.image_files import read_image
from cdl_d2.data import LatentStore, Variant
from cdl_d2.data.datasets.coco import class_names, has_masks, read_coco
from cdl_d2.data.datasets.coco_images import require_image_files
from cdl_d2.errors import CdlError
from cdl_d2.metrics.coco_precision import CocoIndex
from cdl_d2.workers import PlainlyPickled


class CocoItems(PlainlyPickled, Dataset):
    """Samples for CompressedMaskRCNN.

    Args:
        annotations: COCO-format JSON.
        images: folder to which the file names in `annotations` are relative.
        variants: sizes and flips of an image that can be requested.
        training: leave out images without objects, and add `target` to samples.
        store: latent store to read from; `image` is then read only if `with_image`.
        with_image: add `image`, for a teacher.
        with_masks: add masks to targets, and `has_mask` (G booleans) if some objects have none.

    Raises:
        FileNotFoundError: if annotations, the folder or an image file do not exist.
        CdlError: if the annotations are invalid; if the store lacks a variant or an image; if no
            image is left to train on, or masks are needed and no object has one.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        variants: Sequence[Variant],
        *,
        training: bool,
        store: LatentStore | None = None,
        with_image: bool = True,
        with_masks: bool = True,
    ):
        if not Path(images).is_dir():
            raise FileNotFoundError(f"there is no image folder {images}")
        content = read_coco(annotations, images=images)
        self.coco = CocoIndex(content)
        self.classes = tuple(class_names(content))
        self.category_ids = sorted(self.coco.cats)
        self.variants = tuple(variants)
        self._folder, self._training = Path(images), training
        self._store, self._with_image = store, with_image or store is None
        self._with_masks = with_masks
        self._records = [
            record
            for record in sorted(content["images"], key=lambda record: record["id"])
            if not training or self._objects(record)
        ]
        if not self._records:
            raise CdlError(f"no image of {annotations} has an object to train on")
        if training and with_masks and not self.has_masks:
            raise CdlError(
                f"{annotations} has no mask for any object: add 'segmentation', or train a "
                "detector of boxes only"
            )
        if store is not None:
            self._check_store(store)
        if self._with_image:
            files = (self._folder / record["file_name"] for record in self._records)
            require_image_files(files, annotations)

    @property
    def has_masks(self) -> bool:
        """True if objects have masks that can be learned and evaluated."""
        return has_masks(self.coco.dataset)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Return the sample of an image, or of (image, variant).

        Raises:
            CdlError: if an image or its latent cannot be read, or its size is not the annotated.
        """
        index, choice = index if isinstance(index, tuple) else (index, 0)
        record, variant = self._records[index], self.variants[choice]
        original = record["height"], record["width"]
        size = variant.size(*original)
        sample = {"image_id": record["id"], "height": original[0], "width": original[1]}
        if self._store is not None:
            self._store.check_image(self._folder / record["file_name"])
            sample |= self._store.read(record["file_name"], variant)
            if sample["image_size"] != size:
                raise CdlError(
                    f"the store has an image of {sample['image_size']} pixels for "
                    f"{record['file_name']}, which should have {size}: was another image stored?"
                )
        if self._with_image:
            image = read_image(self._folder / record["file_name"])
            if tuple(image.shape[1:]) != original:
                raise CdlError(
                    f"{self._folder / record['file_name']} has {tuple(image.shape[1:])} pixels, "
                    f"but is annotated as {original}"
                )
            sample["image"] = variant.apply(image)
        if self._training:
            sample["target"] = self._target(record, variant, size)
        return sample

    def _objects(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the annotations to train on: no crowds, and boxes with an area on the image."""
        annotations = self.coco.imgToAnns.get(record["id"], [])
        objects = [obj for obj in annotations if not obj["iscrowd"]]
        return [obj for obj in objects if (_corners(obj, record).diff(dim=0) > 0).all()]

    def _target(
        self, record: dict[str, Any], variant: Variant, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        objects = self._objects(record)
        boxes = torch.stack([_corners(obj, record).flatten() for obj in objects])
        boxes *= torch.tensor([size[1] / record["width"], size[0] / record["height"]] * 2)
        if variant.flip:
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        labels = [1 + self.category_ids.index(obj["category_id"]) for obj in objects]
        target = {"boxes": boxes, "labels": torch.tensor(labels)}
        if self._with_masks:
            masks = torch.from_numpy(np.stack([self._mask(obj, record) for obj in objects]))
            masks = F.interpolate(masks[None], size=size, mode="nearest")[0]
            target["masks"] = masks.flip(2) if variant.flip else masks
            masked = [bool(obj.get("segmentation")) for obj in objects]
            if not all(masked):
                target["has_mask"] = torch.tensor(masked)
        return target

    def _mask(self, annotation: dict[str, Any], record: dict[str, Any]) -> np.ndarray:
        """Return a mask, H x W of 0 and 1, uint8; zeros for an object without a mask."""
        if not annotation.get("segmentation"):
            return np.zeros((record["height"], record["width"]), dtype=np.uint8)
        return self.coco.annToMask(annotation)

    def _check_store(self, store: LatentStore) -> None:
        store.require(self.variants)
        for record in self._records:
            image = store.find(record["file_name"])
            if image in store.failures:
                raise CdlError(f"{image} could not be encoded: {store.failures[image]}")


def _corners(annotation: dict[str, Any], record: dict[str, Any]) -> torch.Tensor:
    """Return [[left, top], [right, bottom]] of a box, clipped to its image."""
    left, top, width, height = annotation["bbox"]
    corners = torch.tensor([[left, top], [left + width, top + height]], dtype=torch.float32)
    return corners.clamp(min=0).minimum(torch.tensor([record["width"], record["height"]]))
