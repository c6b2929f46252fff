"""Agreement of a network's outputs with those of a reference network, without labels.

An agreement holds values of each image, so that it can be computed anew for any choice of images:
`resample` gives its distribution over images drawn with replacement (bootstrap).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools.cocoeval import COCOeval

from cdl_d2.metrics.coco_precision import CocoIndex
from cdl_d2.metrics.coco_results import detections_to_coco
from cdl_d2.metrics.segmentation import PixelConfusion

RESAMPLES = 200
CONFIDENCE = 0.95  # of intervals


class Agreement(Protocol):
    """Agreement over images that were added."""

    def value(self, chosen: np.ndarray | None = None) -> float:
        """Return the agreement in percent; NaN if there is nothing to agree on.

        Args:
            chosen: indices of images, which may repeat; default all images.
        """


class MeanAgreement:
    """Mean of one share per image.

    Attributes:
        shares: of each image, 0 to 1.
    """

    def __init__(self) -> None:
        self.shares: list[float] = []

    def value(self, chosen: np.ndarray | None = None) -> float:
        """Return the mean in percent; NaN without images."""
        shares = np.array(self.shares)
        shares = shares if chosen is None else shares[chosen]
        return float(100 * shares.mean()) if len(shares) else float("nan")


class ClassAgreement(MeanAgreement):
    """Share of images whose most probable class is that of the reference (top-1 agreement).

    Attributes:
        divergences: D(reference || network) of the class probabilities of each image, in nats.
    """

    def __init__(self) -> None:
        super().__init__()
        self.divergences: list[float] = []

    def add(self, reference: torch.Tensor, logits: torch.Tensor) -> None:
        """Add an image: K logits of the reference and of the network."""
        self.shares.append(float(reference.argmax() == logits.argmax()))
        expected, predicted = (F.log_softmax(x.double(), 0) for x in (reference, logits))
        divergence = F.kl_div(predicted, expected, reduction="sum", log_target=True)
        self.divergences.append(max(0.0, float(divergence)))


class LabelMapAgreement:
    """Mean IoU of label maps, over the classes of the reference's maps.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._matrices: list[np.ndarray] = []

    def add(self, reference: torch.Tensor, label_map: torch.Tensor) -> None:
        """Add an image: label maps of the reference and of the network, H x W each."""
        confusion = PixelConfusion(self._num_classes, ignored_label=-1)
        confusion.add(reference.numpy(), label_map.numpy())
        self._matrices.append(confusion.matrix)

    def value(self, chosen: np.ndarray | None = None) -> float:
        """Return the mean IoU in percent; NaN without images."""
        if not self._matrices:
            return float("nan")
        total = PixelConfusion(self._num_classes)
        indices = range(len(self._matrices)) if chosen is None else chosen
        for index in indices:
            total.matrix += self._matrices[index]
        return total.mean_iou()


class DetectionAgreement:
    """COCO's average precision of detections, with the reference's confident ones as ground truth.

    The mean is over IoU thresholds of 0.5 to 0.95 and over the classes of which the reference has a
    confident detection.

    Args:
        threshold: lowest score of a confident detection of the reference.
        task: `bbox` or `segm`.
    """

    def __init__(self, threshold: float, task: str = "bbox"):
        self._threshold, self._task = threshold, task
        self._images: list[dict[str, Any]] = []
        self._objects: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._evaluator: COCOeval | None = None

    def add(
        self,
        reference: dict[str, torch.Tensor],
        detections: dict[str, torch.Tensor],
        size: tuple[int, int],
    ) -> None:
        """Add an image.

        Args:
            reference: `boxes` D x 4, `labels` D, `scores` D and, for masks, `masks` D x H x W.
            detections: the same of the network.
            size: (H, W) of the image in pixels.
        """
        number = len(self._images) + 1
        self._images.append({"id": number, "height": size[0], "width": size[1]})
        confident = reference["scores"] >= self._threshold
        for record in self._records({k: v[confident] for k, v in reference.items()}, number):
            width, height = record["bbox"][2:]
            values = {"id": len(self._objects) + 1, "iscrowd": 0, "area": width * height}
            self._objects.append(record | values)
        self._results += self._records(detections, number)
        self._evaluator = None

    @property
    def object_count(self) -> int:
        """Number of the reference's confident detections."""
        return len(self._objects)

    def value(self, chosen: np.ndarray | None = None) -> float:
        """Return the average precision in percent; NaN without confident detections."""
        if not self._objects:
            return float("nan")
        evaluator = self._evaluator = self._evaluator or self._evaluate()
        images, pairs = len(self._images), evaluator.evalImgs
        indices = range(images) if chosen is None else chosen
        evaluator.evalImgs = [
            pairs[first + index] for first in range(0, len(pairs), images) for index in indices
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every step
            evaluator.accumulate()
        evaluator.evalImgs = pairs
        precision = evaluator.eval["precision"]
        precision = precision[precision >= 0]
        return float(100 * precision.mean()) if precision.size else float("nan")

    def _records(self, detections: dict[str, torch.Tensor], number: int) -> list[dict[str, Any]]:
        boxes, labels, scores = (detections[key] for key in ("boxes", "labels", "scores"))
        masks = detections["masks"] if self._task == "segm" else None
        ids = range(1 + int(labels.max())) if len(labels) else ()
        return detections_to_coco(boxes, labels, scores, number, ids, masks)

    def _evaluate(self) -> COCOeval:
        """Match the detections of all images, of any size and number."""
        categories = [{"id": n} for n in sorted({o["category_id"] for o in self._objects})]
        content = {"images": self._images, "annotations": self._objects, "categories": categories}
        results = self._results
        if self._task == "segm":
            results = [{k: v for k, v in record.items() if k != "bbox"} for record in results]
        with contextlib.redirect_stdout(io.StringIO()):
            index = CocoIndex(content)
            evaluator = COCOeval(index, index.loadRes(results), self._task)
            evaluator.params.areaRng = evaluator.params.areaRng[:1]
            evaluator.params.areaRngLbl = evaluator.params.areaRngLbl[:1]
            evaluator.params.maxDets = [len(results) + len(self._objects)]
            evaluator.evaluate()
        return evaluator


def resample(agreements: Sequence[Agreement], image_count: int) -> np.ndarray:
    """Return agreements over images drawn with replacement, RESAMPLES x len(agreements).

    All agreements of a row have the same images, so that their differences are those of pairs.
    """
    generator = np.random.default_rng(0)
    draws = [generator.integers(image_count, size=image_count) for _ in range(RESAMPLES)]
    return np.array([[agreement.value(draw) for agreement in agreements] for draw in draws])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the central CONFIDENCE interval of resampled values; NaN for none."""
    values = values[np.isfinite(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def share_interval(percentage: float, count: int) -> tuple[float, float]:
    """Return the CONFIDENCE interval of a share of images, in percent (Wilson's score interval).

    It has a width also if all of `count` images agree, which resampling does not show.
    """
    z, share = 1.96, percentage / 100
    centre, scale = share + z**2 / (2 * count), 1 + z**2 / count
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float(100 * (centre - half) / scale), float(100 * (centre + half) / scale)
