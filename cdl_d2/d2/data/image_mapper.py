"""DatasetMapper that reads images by read_image, which checks the type of a file first."""

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
    """DatasetMapper that keeps objects without a mask, and marks them in `gt_has_mask`."""

    def _transform_annotations(
        self, sample: dict[str, Any], transforms: T.Transform, size: tuple[int, int]
    ) -> None:
        """Set `instances`, with `gt_has_mask` (G booleans) if an object lacks its mask."""
        objects = [record for record in sample["annotations"] if not record.get("iscrowd")]
        if not self.use_instance_mask or all("segmentation" in record for record in objects):
            super()._transform_annotations(sample, transforms, size)
            return
        masked = torch.tensor(["segmentation" in record for record in objects])
        for record in objects if not self.use_keypoint else ():
            record.pop("keypoints", None)
        flips = {"keypoint_hflip_indices": self.keypoint_hflip_indices}
        annotations = [
            {"segmentation": []}
            | utils.transform_instance_annotations(record, transforms, size, **flips)
            for record in objects
        ]
        instances = utils.annotations_to_instances(annotations, size, self.instance_mask_format)
        instances.gt_has_mask = masked
        if self.recompute_boxes:
            boxes = instances.gt_masks.get_bounding_boxes().tensor
            instances.gt_boxes.tensor[masked] = boxes[masked]
        valid = instances.gt_masks.nonempty() | ~masked
        del sample["annotations"]
        sample["instances"] = instances[instances.gt_boxes.nonempty(1e-5) & valid]


class AtLeastOnePixel(T.ResizeShortestEdge):
    """ResizeShortestEdge that keeps at least one pixel of a side."""

    @classmethod
    def replace(cls, augmentation: T.Augmentation) -> T.Augmentation:
        """Return this augmentation for a ResizeShortestEdge; others unchanged."""
        if type(augmentation) is not T.ResizeShortestEdge:
            return augmentation
        style = "range" if augmentation.is_range else "choice"
        sizes = augmentation.short_edge_length, augmentation.max_size
        return cls(*sizes, sample_style=style, interp=augmentation.interp)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform) and min(resize.new_h, resize.new_w) < 1:
            height, width = max(resize.new_h, 1), max(resize.new_w, 1)
            return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)
        return resize


class ImageMapper(AnnotatedMapper):
    """DatasetMapper that checks the type of a file before Pillow opens it.

    Takes the arguments of DatasetMapper.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        augmentations = map(AtLeastOnePixel.replace, self.augmentations.augs)
        self.augmentations = T.AugmentationList(list(augmentations))

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a sample in the form of Detectron2's DatasetMapper.

        Raises:
            FileNotFoundError, CdlError: if the image or its label map cannot be read, or the image
                has another size than annotated.
        """
        sample = copy.deepcopy(dataset_dict)
        picture = Image.fromarray(read_image(sample["file_name"]).permute(1, 2, 0).numpy())
        image = utils.convert_PIL_to_numpy(picture, self.image_format)
        try:
            utils.check_image_size(sample, image)
        except SizeMismatchError as error:
            raise CdlError(f"{error}") from error
        labels = sample.pop("sem_seg_file_name", None)
        view = T.AugInput(image, sem_seg=labels and _read_labels(labels))
        transforms = self.augmentations(view)
        size = view.image.shape[:2]
        sample["image"] = torch.as_tensor(np.ascontiguousarray(view.image.transpose(2, 0, 1)))
        if labels:
            sample["sem_seg"] = torch.as_tensor(view.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            utils.transform_proposals(sample, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            sample.pop("annotations", None)
        elif "annotations" in sample:
            self._transform_annotations(sample, transforms, size)
        return sample


def _read_labels(path: str) -> np.ndarray:
    """Return a label map, H x W, uint8."""
    with open_image(path) as file:
        return utils.convert_PIL_to_numpy(file, "L").squeeze(2)


def read_pixels(path: str, channel_order: str) -> torch.Tensor:
    """Read an image, 3 x H x W, uint8, with channels in the order `BGR` or `RGB`."""
    image = read_image(path)
    return image.flip(0) if channel_order == "BGR" else image
