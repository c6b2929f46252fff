"""What a model says of one image.

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

BEST = 5  # classes of an image that are named


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What is common to all tasks.

    Attributes:
        image_size: (H, W) in pixels of the original image, in which boxes, masks and label maps
            are: of an image file its own; of a bitstream or a stored latent that of the image
            before it was resized for coding, or where the file does not say it, of the coded image.
        class_names: of all K classes that the model knows.
        bits: of the coded image, of its file or estimated; None for a model of pixels.
        bits_per_pixel: over the pixels of the image as it was coded, after resizing.
        picture: gives the image, 3 x H x W, uint8, RGB; a bitstream is decoded only then.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    bits: float | None = None
    bits_per_pixel: float | None = None
    picture: Callable[[], torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def draw(self, image: Picture | None = None, threshold: float = THRESHOLD) -> np.ndarray:
        """The prediction on an image, H x W x 3, uint8, RGB.

        Args:
            image: as read_image takes it; default the model's input, a bitstream decoded.
            threshold: lowest score of a detection that is drawn.

        Raises:
            CdlError, OSError: if there is no such image, or it is of another size.
        """
        if image is None and self.picture is None:
            raise CdlError("what was predicted from is not known any more: give draw an image")
        pixels = self.picture() if image is None else read_image(image)
        if tuple(pixels.shape[1:]) != tuple(self.image_size):
            raise CdlError(
                f"the prediction is of an image of {self.image_size} pixels, (height, width), and "
                f"cannot be drawn on one of {tuple(pixels.shape[1:])}"
            )
        return self._draw(pixels, threshold).permute(1, 2, 0).contiguous().numpy()

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class PanopticSegments:
    """Things and stuff of an image, as Detectron2 numbers them.

    Attributes:
        stuff: H x W, uint8, the class of every pixel; 0 for all things.
        segments: H x W, int32, numbers of segments; 0 where there is none. None of a model that
            does not combine things and stuff.
        described: of each segment `id`, `isthing`, `category_id`, which is a label of a thing, from
            0, or a class of `stuff`, and `area` in pixels.
    """

    stuff: torch.Tensor
    segments: torch.Tensor | None = None
    described: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(Prediction):
    """Objects, the most certain first.

    Attributes:
        boxes: D x 4, left, top, right, bottom in pixels of the image.
        labels: D, from 0.
        scores: D, in 0..1.
        masks: D x H x W booleans, or None of a model of boxes.
        keypoints: D x P x 3, x and y in pixels of the image and a score; None of other models.
        panoptic: segments of a panoptic model; None of other models.
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
        """The name of each object's class."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def to_coco(
        self, image_id: int = 0, category_ids: list[int] | None = None
    ) -> list[dict[str, Any]]:
        """The objects as entries of a COCO results file; masks are RLE, and keypoints x, y and a
        score each, where x and y are numbers of pixels as in annotations, half a pixel less.

        Args:
            category_ids: of the classes in order; default 1, 2, ...
        """
        ids = category_ids or range(1, len(self.class_names) + 1)
        fields = (self.boxes, self.labels, self.scores)
        return detections_to_coco(*fields, image_id, ids, self.masks, self.keypoints)

    def to_instances(self) -> Any:
        """Detectron2's Instances, with pred_boxes, pred_classes, scores and, where there are some,
        pred_masks and pred_keypoints.

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
    """A class for every pixel.

    Attributes:
        segmentation: H x W of uint8 (int16 for more than 256 classes), places in class_names.
    """

    segmentation: torch.Tensor

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        return draw_label_map(pixels, self.segmentation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification(Prediction):
    """A probability for every class.

    Attributes:
        probabilities: K, of class_names, in 0..1.
    """

    probabilities: torch.Tensor

    @property
    def label(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())

    @property
    def name(self) -> str:
        """Its name."""
        return self.class_names[self.label]

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        best = self.probabilities.topk(min(BEST, len(self.class_names)))
        lines = [
            f"{self.class_names[label]} {score:.0%}"
            for score, label in zip(*(each.tolist() for each in best), strict=True)
        ]
        return draw_lines(pixels, lines)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributesAndParts(Prediction):
    """What a model of several tasks says; None of a task that it has no head for.

    Attributes:
        segmentation: H x W, the class of every pixel, see Segmentation.
        attributes: A probabilities, in 0..1.
        attribute_names: A.
    """

    segmentation: torch.Tensor | None = None
    attributes: torch.Tensor | None = None
    attribute_names: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The attributes that the image has rather than not."""
        if self.attributes is None:
            return []
        pairs = zip(self.attribute_names, self.attributes.tolist(), strict=True)
        return [name for name, probability in pairs if probability > 0.5]

    def _draw(self, pixels: torch.Tensor, threshold: float) -> torch.Tensor:
        if self.segmentation is not None:
            pixels = draw_label_map(pixels, self.segmentation)
        return draw_lines(pixels, self.names) if self.names else pixels
