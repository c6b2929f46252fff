"""A COCO-format data set as items of a batch, resized and flipped before anything is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from cdl_d2.codec.image_files import read_image
from cdl_d2.data import LatentStore, Variant
from cdl_d2.data.datasets.coco import class_names, read_coco
from cdl_d2.data.datasets.coco_precision import index_coco
from cdl_d2.errors import CdlError
from cdl_d2.workers import PlainlyPickled


class CocoItems(PlainlyPickled, Dataset):
    """Items for CompressedMaskRCNN.

    Args:
        annotations: COCO-format JSON.
        images: the folder that its file names are relative to.
        variants: the sizes and flips of an image that can be asked for.
        training: leave out images without objects, and give items their `target`.
        store: read latents from there; `image` is then read only if `with_image`.
        with_image: for a teacher.
        with_masks: of a target; a detector of boxes needs none.

    Raises:
        FileNotFoundError, CdlError: as read_coco; if there is no such folder; for a store that
            lacks a variant or an image; if no image is left to train on, or an object of one has no
            mask where masks are wanted.
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
        content = read_coco(annotations)
        if not Path(images).is_dir():
            raise FileNotFoundError(f"there is no image folder {images}")
        self.coco = index_coco(content)
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
        if training and with_masks:
            self._check_masks(annotations)
        if store is not None:
            self._check_store(store)

    @property
    def has_masks(self) -> bool:
        """Whether every annotation has one."""
        return all(each.get("segmentation") for each in self.coco.anns.values())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, draw: int | tuple[int, int]) -> dict[str, Any]:
        """The item of an image, or of (image, variant).

        Raises:
            CdlError: if an image or its latent cannot be read, or has another size than
                annotated.
        """
        index, choice = draw if isinstance(draw, tuple) else (draw, 0)
        record, variant = self._records[index], self.variants[choice]
        original = record["height"], record["width"]
        size = variant.size(*original)
        item = {"image_id": record["id"], "height": original[0], "width": original[1]}
        if self._store is not None:
            self._store.check_image(self._folder / record["file_name"])
            item |= self._store.read(record["file_name"], variant)
            if item["image_size"] != size:
                raise CdlError(
                    f"the store has an image of {item['image_size']} pixels for "
                    f"{record['file_name']}, which should have {size}: is it another?"
                )
        if self._with_image:
            image = read_image(self._folder / record["file_name"])
            if tuple(image.shape[1:]) != original:
                raise CdlError(
                    f"{self._folder / record['file_name']} has {tuple(image.shape[1:])} pixels, "
                    f"but is annotated as {original}"
                )
            item["image"] = variant.apply(image)
        if self._training:
            item["target"] = self._target(record, variant, size)
        return item

    def _check_masks(self, annotations: str | Path) -> None:
        for record in self._records:
            for each in self._objects(record):
                if not each.get("segmentation"):
                    raise CdlError(
                        f"annotation {each['id']} of {annotations} has no mask: give --boxes-only, "
                        "or add 'segmentation'"
                    )

    def _objects(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """Annotations to train on: no crowds, no empty boxes."""
        annotations = self.coco.imgToAnns.get(record["id"], [])
        return [a for a in annotations if not a.get("iscrowd") and min(a["bbox"][2:]) > 0]

    def _target(
        self, record: dict[str, Any], variant: Variant, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        objects = self._objects(record)
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        limits = torch.tensor([record["width"], record["height"]] * 2)
        boxes = boxes.clamp(min=0).minimum(limits)
        outside = (boxes[:, 2:] <= boxes[:, :2]).any(1).nonzero()
        if len(outside):
            annotation = objects[int(outside[0])]
            raise CdlError(
                f"annotation {annotation['id']} has bbox {annotation['bbox']}, which is not on "
                f"{record['file_name']} of {record['width']}x{record['height']} pixels"
            )
        boxes *= torch.tensor([size[1] / record["width"], size[0] / record["height"]] * 2)
        if variant.flip:
            boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
        labels = [1 + self.category_ids.index(a["category_id"]) for a in objects]
        target = {"boxes": boxes, "labels": torch.tensor(labels)}
        if self._with_masks:
            masks = torch.from_numpy(np.stack([self._mask(a, record) for a in objects]))
            masks = F.interpolate(masks[None], size=size, mode="nearest")[0]
            target["masks"] = masks.flip(2) if variant.flip else masks
        return target

    def _mask(self, annotation: dict[str, Any], record: dict[str, Any]) -> np.ndarray:
        try:
            shape = annotation["segmentation"]
            if isinstance(shape, list) and any(len(p) < 6 or len(p) % 2 for p in shape):
                raise CdlError("a polygon needs pairs of numbers, three or more")
            return self.coco.annToMask(annotation)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CdlError(
                f"annotation {annotation['id']} of {record['file_name']} has no mask that can be "
                f"read ({error!r}): Mask R-CNN needs polygons or RLE under 'segmentation'"
            ) from error

    def _check_store(self, store: LatentStore) -> None:
        store.require(self.variants)
        for record in self._records:
            image = store.find(record["file_name"])
            if image in store.failures:
                raise CdlError(f"{image} could not be encoded: {store.failures[image]}")
