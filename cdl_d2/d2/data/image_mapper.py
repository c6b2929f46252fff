"""Detectron2's mapper on the pixels that all other readers of images get."""

from __future__ import annotations

import copy
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from cdl_d2.codec.io.image_files import open_image, read_image
from cdl_d2.errors import CdlError


class AnnotatedMapper(DatasetMapper):
    """Detectron2's mapper; objects without a mask stay, and `gt_has_mask` says which have one."""

    def _transform_annotations(
        self, item: dict[str, Any], transforms: T.Transform, size: tuple[int, int]
    ) -> None:
        """Set `instances`, from annotations of (H, W) pixels, as Detectron2's; `gt_has_mask` (G
        booleans) where masks are learned and an object has none."""
        objects = [entry for entry in item["annotations"] if not entry.get("iscrowd")]
        if not self.use_instance_mask or all("segmentation" in entry for entry in objects):
            super()._transform_annotations(item, transforms, size)
            return
        masked = torch.tensor(["segmentation" in entry for entry in objects])
        for entry in objects if not self.use_keypoint else ():
            entry.pop("keypoints", None)
        flips = {"keypoint_hflip_indices": self.keypoint_hflip_indices}
        moved = [
            utils.transform_instance_annotations(entry, transforms, size, **flips)
            for entry in objects
        ]
        moved = [{"segmentation": [], **entry} for entry in moved]
        instances = utils.annotations_to_instances(moved, size, self.instance_mask_format)
        instances.gt_has_mask = masked
        if self.recompute_boxes:
            boxes = instances.gt_masks.get_bounding_boxes().tensor
            instances.gt_boxes.tensor[masked] = boxes[masked]
        there = instances.gt_masks.nonempty() | ~masked
        del item["annotations"]
        item["instances"] = instances[instances.gt_boxes.nonempty(1e-5) & there]


class AtLeastOnePixel(T.ResizeShortestEdge):
    """Detectron2's resizing, but a side that would shrink to nothing keeps one pixel."""

    @classmethod
    def of(cls, augmentation: T.Augmentation) -> T.Augmentation:
        """Return an augmentation, or this one instead of Detectron2's."""
        if type(augmentation) is not T.ResizeShortestEdge:
            return augmentation
        style = "range" if augmentation.is_range else "choice"
        sizes = augmentation.short_edge_length, augmentation.max_size
        return cls(*sizes, sample_style=style, interp=augmentation.interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the resizing of an image, H x W x C."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform) and min(resize.new_h, resize.new_w) < 1:
            height, width = max(resize.new_h, 1), max(resize.new_w, 1)
            return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)
        return resize


class ImageMapper(AnnotatedMapper):
    """Detectron2's mapper, with pixels as read_image gives them to every other reader."""

    def __init__(self, *args: Any, **kwargs: Any):
        """
        Args:
            args, kwargs: those of DatasetMapper.
        """
        super().__init__(*args, **kwargs)
        augmentations = map(AtLeastOnePixel.of, self.augmentations.augs)
        self.augmentations = T.AugmentationList(list(augmentations))

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return an item as DatasetMapper does, of the pixels that read_image gives.

        Raises:
            FileNotFoundError, CdlError: as read_image, for the image or its label map; if the
                image has not the size that its annotations say.
        """
        item = copy.deepcopy(dataset_dict)
        picture = Image.fromarray(read_image(item["file_name"]).permute(1, 2, 0).numpy())
        image = utils.convert_PIL_to_numpy(picture, self.image_format)
        try:
            utils.check_image_size(item, image)
        except SizeMismatchError as error:
            raise CdlError(f"{error}") from error
        labels = item.pop("sem_seg_file_name", None)
        view = T.AugInput(image, sem_seg=labels and _read_labels(labels))
        transforms = self.augmentations(view)
        size = view.image.shape[:2]
        item["image"] = torch.as_tensor(np.ascontiguousarray(view.image.transpose(2, 0, 1)))
        if labels:
            item["sem_seg"] = torch.as_tensor(view.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            utils.transform_proposals(item, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            item.pop("annotations", None)
        elif "annotations" in item:
            self._transform_annotations(item, transforms, size)
        return item


def _read_labels(path: str) -> np.ndarray:
    """Return a label map, H x W, uint8; raises as open_image."""
    with open_image(path) as file:
        return utils.convert_PIL_to_numpy(file, "L").squeeze(2)


def read_pixels(path: str, channel_order: str) -> torch.Tensor:
    """3 x H x W, uint8, `BGR` or `RGB`; raises as read_image."""
    image = read_image(path)
    return image.flip(0) if channel_order == "BGR" else image
