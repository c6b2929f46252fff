"""Heads of a multi-task model: one per task, on the features of one backbone.

A new task is one head, its name in TASK_HEADS, and its evaluator in cdl_d2/d2/tasks/multitask.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import nn

from cdl_d2.d2.modeling.label_maps import padded_labels
from cdl_d2.errors import CdlError, check_choice
from cdl_d2.nn.input.sample import get_output_size
from cdl_d2.transfer.features import coverage_mask

Features = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class BatchInfo:
    """Samples and sizes of a batch of features.

    Attributes:
        samples: with the targets of the tasks.
        image_sizes: (H, W) of each image, in pixels.
        padded_size: (H', W') of the batch, in pixels.
    """

    samples: list[dict[str, Any]]
    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]


class TaskHead(nn.Module, ABC):
    """Head of a task: its loss and its predictions.

    Attributes:
        result: key of the prediction in a model's outputs.
    """

    result: str

    @property
    def notes(self) -> dict[str, Any]:
        """Entries that every output has beside the prediction, such as names."""
        return {}

    @abstractmethod
    def loss(self, features: Features, batch: BatchInfo) -> torch.Tensor:
        """Return the loss, a scalar.

        Raises:
            CdlError: if a sample has no target, or one that does not fit the head.
        """

    @abstractmethod
    def predict(self, features: Features, batch: BatchInfo) -> list[torch.Tensor]:
        """Return the prediction for each image."""


def _target(sample: dict[str, Any], key: str, task: str) -> Any:
    if key not in sample:
        raise CdlError(
            f"a sample has no {key!r}, the target of task {task}, only {sorted(sample)}: register "
            "the data by --register-multitask, or leave the task out of MODEL.TASKS.NAMES"
        )
    return sample[key]


class AttributeHead(TaskHead):
    """Predicts whether an image has each of K attributes.

    ReLU, average of each feature over the image, linear layer and K sigmoids; the loss is the mean
    binary cross entropy. Without the ReLU, averages of a pyramid's features would be near 0 after
    group normalization. `attributes` of a sample are K zeros and ones, of an output K
    probabilities.

    Args:
        channels: of each feature.
        strides: of each feature.
        names: of the K attributes.
    """

    result = "attributes"

    @configurable
    def __init__(
        self, channels: Mapping[str, int], strides: Mapping[str, int], names: Sequence[str]
    ):
        super().__init__()
        self._strides, self._names = dict(strides), tuple(names)
        self.predictor = nn.Linear(sum(channels.values()), len(names))

    @property
    def notes(self) -> dict[str, Any]:
        return {"attribute_names": self._names}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        keys = cfg.MODEL.ATTRIBUTE_HEAD
        missing = set(keys.IN_FEATURES) - set(input_shape)
        if missing:
            raise CdlError(
                f"MODEL.ATTRIBUTE_HEAD.IN_FEATURES {min(missing)!r} is not one of the backbone's "
                f"features, {', '.join(input_shape)}"
            )
        names = list(keys.NAMES) or [str(i) for i in range(keys.NUM_ATTRIBUTES)]
        if len(names) != keys.NUM_ATTRIBUTES:
            raise CdlError(
                f"MODEL.ATTRIBUTE_HEAD.NAMES has {len(names)} names for {keys.NUM_ATTRIBUTES} "
                "attributes (NUM_ATTRIBUTES)"
            )
        shapes = {name: input_shape[name] for name in keys.IN_FEATURES}
        return {
            "channels": {name: shape.channels for name, shape in shapes.items()},
            "strides": {name: shape.stride for name, shape in shapes.items()},
            "names": names,
        }

    def logits(self, features: Features, batch: BatchInfo) -> torch.Tensor:
        """Return N x K logits, of averages over the positions that each image covers."""
        averages = []
        for name, stride in self._strides.items():
            feature = features[name].relu()
            covered = coverage_mask(batch.image_sizes, stride, feature.shape[2:], feature.device)
            averages.append((feature * covered).sum((2, 3)) / covered.sum((2, 3)))
        return self.predictor(torch.cat(averages, dim=1))

    def loss(self, features: Features, batch: BatchInfo) -> torch.Tensor:
        logits, count = self.logits(features, batch), self.predictor.out_features
        rows = [torch.as_tensor(_target(s, "attributes", "attributes")) for s in batch.samples]
        for row in rows:
            if tuple(row.shape) != (count,):
                raise CdlError(
                    f"an image has {row.numel()} attributes, the head {count}: set "
                    "MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES to those of the data"
                )
        return F.binary_cross_entropy_with_logits(logits, torch.stack(rows).to(logits))

    def predict(self, features: Features, batch: BatchInfo) -> list[torch.Tensor]:
        return list(self.logits(features, batch).sigmoid())


class ParsingHead(TaskHead):
    """Predicts the part that each pixel belongs to, by Detectron2's head of MODEL.SEM_SEG_HEAD.

    `sem_seg` of a sample are H x W labels, of an output C x height x width scores.
    """

    result = "sem_seg"

    def __init__(self, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]):
        super().__init__()
        self.head = build_sem_seg_head(cfg, dict(input_shape))

    def loss(self, features: Features, batch: BatchInfo) -> torch.Tensor:
        for sample in batch.samples:
            _target(sample, "sem_seg", "parsing")
        device, sizes = next(self.parameters()).device, (batch.image_sizes, batch.padded_size)
        targets = padded_labels(self.head, batch.samples, *sizes, device)
        return sum(self.head(features, targets)[1].values())

    def predict(self, features: Features, batch: BatchInfo) -> list[torch.Tensor]:
        rows = zip(self.head(features)[0], batch.image_sizes, batch.samples, strict=True)
        return [
            sem_seg_postprocess(image_scores, size, *get_output_size(sample, size))
            for image_scores, size, sample in rows
        ]


TASK_HEADS: dict[str, type[TaskHead]] = {"attributes": AttributeHead, "parsing": ParsingHead}


def build_head(name: str, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> TaskHead:
    """Build the head of a task on features of these shapes.

    Raises:
        CdlError: for an unknown task, or a config that does not fit the features.
    """
    check_choice("MODEL.TASKS.NAMES", name, TASK_HEADS)
    return TASK_HEADS[name](cfg, input_shape)
