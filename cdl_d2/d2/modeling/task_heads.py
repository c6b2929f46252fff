"""Heads of a multi-task model: one a task, all on the features of one backbone.

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
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.sample import get_image_size, get_output_size
from cdl_d2.transfer.features import coverage_mask

Features = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Shown:
    """The images behind a batch of features.

    Attributes:
        items: of the batch, with what tasks learn from.
        image_sizes: (H, W) of each image, in pixels.
        padded_size: (H', W') of the batch, in pixels.
    """

    items: list[dict[str, Any]]
    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]


class TaskHead(nn.Module, ABC):
    """What a task makes of features, and how it learns.

    `result` is the key of what it predicts in a model's outputs; `notes` are what a reader of a
    prediction must know beside it, the same for all images.
    """

    result: str

    @property
    def notes(self) -> dict[str, Any]:
        """Entries of every output."""
        return {}

    @abstractmethod
    def loss(self, features: Features, shown: Shown) -> torch.Tensor:
        """A scalar, from what items hold.

        Raises:
            CdlError: if an item lacks it, or it does not fit the head.
        """

    @abstractmethod
    def predict(self, features: Features, shown: Shown) -> list[torch.Tensor]:
        """A prediction for each image."""


def _target(item: dict[str, Any], key: str, task: str) -> Any:
    if key not in item:
        raise CdlError(
            f"a batch item has no {key!r}, which task {task} learns from, only {sorted(item)}: "
            "register the data by --register-multitask, or leave the task out of MODEL.TASKS.NAMES"
        )
    return item[key]


class AttributeHead(TaskHead):
    """Whether an image has each of K attributes: ReLU, averages of features over it, a linear
    layer, K sigmoids, and the mean of their binary cross entropies.

    Features of a pyramid have both signs, and after group normalization averages near 0.

    `attributes` of an item are K zeros and ones; `attributes` of an output K probabilities.
    """

    result = "attributes"

    @configurable
    def __init__(
        self, channels: Mapping[str, int], strides: Mapping[str, int], names: Sequence[str]
    ):
        """
        Args:
            channels, strides: of each feature that is averaged.
            names: of the K attributes.
        """
        super().__init__()
        self._strides, self._names = dict(strides), tuple(names)
        self.predictor = nn.Linear(sum(channels.values()), len(names))

    @property
    def notes(self) -> dict[str, Any]:
        """`attribute_names`, K."""
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

    def logits(self, features: Features, shown: Shown) -> torch.Tensor:
        """N x K, of averages over the cells that each image covers."""
        averages = []
        for name, stride in self._strides.items():
            feature = features[name].relu()
            covered = coverage_mask(shown.image_sizes, stride, feature.shape[2:], feature.device)
            averages.append((feature * covered).sum((2, 3)) / covered.sum((2, 3)))
        return self.predictor(torch.cat(averages, dim=1))

    def loss(self, features: Features, shown: Shown) -> torch.Tensor:
        logits, count = self.logits(features, shown), self.predictor.out_features
        rows = [torch.as_tensor(_target(i, "attributes", "attributes")) for i in shown.items]
        for row in rows:
            if tuple(row.shape) != (count,):
                raise CdlError(
                    f"an image has {row.numel()} attributes, the head {count}: set "
                    "MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES to those of the data"
                )
        return F.binary_cross_entropy_with_logits(logits, torch.stack(rows).to(logits))

    def predict(self, features: Features, shown: Shown) -> list[torch.Tensor]:
        return list(self.logits(features, shown).sigmoid())


class ParsingHead(TaskHead):
    """The part that each pixel belongs to, by one of Detectron2's semantic segmentation heads
    (MODEL.SEM_SEG_HEAD): scores upsampled to pixels, cross entropy.

    `sem_seg` of an item are H x W labels; `sem_seg` of an output C x height x width scores.
    """

    result = "sem_seg"

    def __init__(self, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]):
        super().__init__()
        self.head = build_sem_seg_head(cfg, dict(input_shape))

    def loss(self, features: Features, shown: Shown) -> torch.Tensor:
        items = [item | {"sem_seg": _target(item, "sem_seg", "parsing")} for item in shown.items]
        device = next(self.parameters()).device
        targets = padded_labels(self.head, items, shown.image_sizes, shown.padded_size, device)
        return sum(self.head(features, targets)[1].values())

    def predict(self, features: Features, shown: Shown) -> list[torch.Tensor]:
        scores = self.head(features)[0]
        return [
            sem_seg_postprocess(image_scores, get_image_size(item), *get_output_size(item))
            for image_scores, item in zip(scores, shown.items, strict=True)
        ]


TASK_HEADS: dict[str, type[TaskHead]] = {"attributes": AttributeHead, "parsing": ParsingHead}


def build_head(name: str, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> TaskHead:
    """The head of a task, on features of these shapes.

    Raises:
        CdlError: for an unknown task; see the heads.
    """
    if name not in TASK_HEADS:
        raise CdlError(f"MODEL.TASKS.NAMES {name!r} is not one of {', '.join(TASK_HEADS)}")
    return TASK_HEADS[name](cfg, input_shape)
