"""Detectron2's mapper on image files that were looked at first."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from cdl_d2.codec.image_files import check_image_file, read_image, read_label_map
from cdl_d2.errors import CdlError


class ImageMapper(DatasetMapper):
    """Detectron2's, which hands a file to whatever Pillow has for it: this one looks first."""

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
