"""What a Predictor must know of a Detectron2 model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, Instances
from torch import nn

from cdl_d2.d2.data.class_mapper import ClassMapper
from cdl_d2.d2.engine.tasks import class_count, task_of
from cdl_d2.data import Variant
from cdl_d2.nn.input.coded_input import CodedInput


def class_names_of(cfg: CfgNode) -> tuple[str, ...]:
    """MODEL.CLASS_NAMES; where a training left none COCO's if their number fits, else numbers."""
    count, names = class_count(cfg), tuple(cfg.MODEL.CLASS_NAMES)
    if len(names) == count:
        return names
    things = tuple(each["name"] for each in COCO_CATEGORIES if each["isthing"])
    return things if len(things) == count else tuple(map(str, range(count)))


def coded_input_of(network: nn.Module, cfg: CfgNode) -> CodedInput:
    """What a model looks at; one of Detectron2's own looks at original images."""
    known = getattr(network, "coded_input", None)
    return known or CodedInput("image", None, cfg.INPUT.FORMAT)


def resize_of(cfg: CfgNode) -> Callable[[torch.Tensor], torch.Tensor]:
    """From an image, 3 x H x W, uint8, to what a model sees of it in evaluation."""
    if task_of(cfg).of_one_size:
        return ClassMapper(cfg.INPUT.IMAGE_SIZE, augment=False, channel_order="RGB").view
    return Variant(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST).apply


def instances(image_size: tuple[int, int], **fields: Any) -> Instances:
    """Detectron2's Instances of `boxes`, D x 4, `labels`, `scores`, and of `masks` and `keypoints`,
    which may be None."""
    found = Instances(image_size)
    found.pred_boxes, found.pred_classes = Boxes(fields["boxes"]), fields["labels"]
    found.scores = fields["scores"]
    if fields["masks"] is not None:
        found.pred_masks = fields["masks"]
    if fields["keypoints"] is not None:
        found.pred_keypoints = fields["keypoints"]
    return found
