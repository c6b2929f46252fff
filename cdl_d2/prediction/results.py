"""Predictions of a model for one image, per task.

Shapes: D detections, K classes, H x W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from cdl_d2.codec.io.image_files import Picture, read_image
from cdl_d2.errors import CdlError, MissingPackageError
from cdl_d2.metrics.coco_results import detections_to_coco
from cdl_d2.prediction.drawing import THRESHOLD, draw_label_map, draw_lines, draw_objects

TOP_CLASSES = 5  # most probable classes in a picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Prediction of any task.

    Attributes:
        image_size: (H, W) in pixels of the original image, to which boxes, masks and label maps
            refer. For a bitstream or a stored latent it is the size before resizing for coding, or
            of the coded image if the file does not hold that.
        class_names: K names of the model's classes.
        bits: of the coded image, from its file or estimated; None for an RGB model.
        bits_per_pixel: per pixel of the image as it was coded, after resizing.
        picture: function that returns the image, 3 x H x W, uint8, RGB, and decodes a bitstream.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    bits: float | None = None
    bits_per_pixel: float | None = None
    picture: Callable[[], torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def draw(self, image: Picture | None = None, threshold: float = THRESHOLD) -> np.ndarray:
        """Draw the prediction on an image.

        Args:
            image: as read_image takes it; default the model's input, a bitstream decoded.
            threshold: lowest score of detections in the picture.

        Returns:
            H x W x 3, uint8, RGB.

        Raises:
            CdlError, OSError: if there is no such image, or it is of another size.
        """
        if image is None and self.picture is None:
            raise CdlError("the prediction has no image of its own: give draw an image")
        pixels = self.picture() if image is None else read_image(image)
        if tuple(pixels.shape[1:]) != tuple(self.image_size):
            raise CdlError(
                f"the prediction is of an image of {self.image_size} pixels, (height, width), and "
                f"does not fit an image of {tuple(pixels.shape[1:])}"
            )
        return self._draw(pixels, threshold).permute(1, 2, 0).contiguous().numpy()

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class PanopticSegments:
    """Segments of things and stuff, with Detectron2's numbers.

    Attributes:
        stuff: H x W, uint8, the class of every pixel; 0 for all things.
        segments: H x W, int32, numbers of segments, 0 for none; None if the model does not combine
            things and stuff.
        infos: per segment `id`, `isthing`, `category_id` (label of a thing, from 0, or class of
            `stuff`) and `area` in pixels.
    """

    stuff: torch.Tensor
    segments: torch.Tensor | None = None
    infos: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(Prediction):
    """Detected objects, sorted by score.

    Attributes:
        boxes: D x 4, left, top, right, bottom in pixels of the image.
        labels: D, from 0.
        scores: D, in 0..1.
        masks: D x H x W booleans; None for a model of boxes.
        keypoints: D x P x 3, x and y in pixels of the image and a score; None for other models.
        panoptic: segments of a panoptic model; None for other models.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None
    panoptic: PanopticSegments | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def to_coco(
        self, image_id: int = 0, category_ids: list[int] | None = None
    ) -> list[dict[str, Any]]:
        """Return the objects as records of a COCO results file.

        Masks become RLE; x and y of keypoints are half a pixel less, as in annotations.

        Args:
            image_id: id of the image in the annotations.
            category_ids: of the classes, in order; default 1, 2, ...
        """
        ids = category_ids or range(1, len(self.class_names) + 1)
        fields = (self.boxes, self.labels, self.scores)
        return detections_to_coco(*fields, image_id, ids, self.masks, self.keypoints)

    def to_instances(self) -> Any:
        """Convert the objects to Detectron2's Instances.

        Raises:
            MissingPackageError: if Detectron2 is not installed.
        """
        try:
            from cdl_d2.d2.applications.backend import build_instances
        except ImportError as error:
            raise MissingPackageError(f"{error}: Instances are Detectron2's") from error
        names = ("boxes", "labels", "scores", "masks", "keypoints")
        return build_instances(self.image_size, **{name: getattr(self, name) for name in names})

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        kept = (self.scores >= threshold).nonzero()[:, 0]
        texts = None  # a single class needs no names
        if len(self.class_names) > 1:
            texts = [f"{self.names[i]} {float(self.scores[i]):.0%}" for i in kept.tolist()]
        return draw_objects(
            pixels,
            self.boxes[kept],
            self.labels[kept].tolist(),
            texts,
            None if self.masks is None else self.masks[kept],
            None if self.keypoints is None else self.keypoints[kept][..., :2],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation(Prediction):
    """Label map: a class for every pixel.

    Attributes:
        segmentation: H x W of uint8 (int16 for more than 256 classes), indices of class_names.
    """

    segmentation: torch.Tensor

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        return draw_label_map(pixels, self.segmentation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Prediction):
    """Class probabilities.

    Attributes:
        probabilities: K, in 0..1.
    """

    probabilities: torch.Tensor

    @property
    def label(self) -> int:
        """Index of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def name(self) -> str:
        """Name of the most probable class."""
        return self.class_names[self.label]

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        best = self.probabilities.topk(min(TOP_CLASSES, len(self.class_names)))
        lines = [
            f"{self.class_names[label]} {score:.0%}"
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        return draw_lines(pixels, lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributesAndParts(Prediction):
    """Predictions of a multi-task model; None for a task that it has no head for.

    Attributes:
        segmentation: H x W, the class of every pixel, as in Segmentation.
        attributes: A probabilities, in 0..1.
        attribute_names: A names.
    """

    segmentation: torch.Tensor | None = None
    attributes: torch.Tensor | None = None
    attribute_names: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the attributes with a probability above 0.5."""
        if self.attributes is None:
            return []
        pairs = zip(self.attribute_names, self.attributes.tolist(), strict=True)
        return [name for name, probability in pairs if probability > 0.5]

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        if self.segmentation is not None:
            pixels = draw_label_map(pixels, self.segmentation)
        return draw_lines(pixels, self.names) if self.names else pixels
