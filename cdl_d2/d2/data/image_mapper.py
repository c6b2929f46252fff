"""Detectron2's mapper on image files that were looked at first."""

from __future__ import annotations

from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data.detection_utils import SizeMismatchError

from cdl_d2.codec.image_files import check_image_file, read_image, read_label_map
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
    """Detectron2's, which hands a file to whatever Pillow has for it: this one looks first."""

    def __init__(self, *args: Any, **kwargs: Any):
        """
        Args:
            args, kwargs: those of DatasetMapper.
        """
        super().__init__(*args, **kwargs)
        augmentations = map(AtLeastOnePixel.of, self.augmentations.augs)
        self.augmentations = T.AugmentationList(list(augmentations))

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As DatasetMapper.

        Raises:
            FileNotFoundError, CdlError: as read_image, for the image or its label map; if the
                image has not the size that its annotations say.
        """
        path, labels = dataset_dict["file_name"], dataset_dict.get("sem_seg_file_name")
        check_image_file(path)
        if labels:
            check_image_file(labels, as_labels=True)
        try:
            return super().__call__(dataset_dict)
        except SizeMismatchError as error:
            raise CdlError(f"{error}") from error
        except Exception:
            read_image(path)  # says so if this file is to blame
            if labels:
                read_label_map(labels)
            raise


def read_pixels(path: str, channel_order: str) -> torch.Tensor:
    """3 x H x W, uint8, `BGR` or `RGB`; raises as read_image."""
    image = read_image(path)
    return image.flip(0) if channel_order == "BGR" else image
