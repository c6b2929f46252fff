"""The frozen pixel network that teaches, built from its own config and weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.structures import Boxes
from torch import nn

from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import read_config
from cdl_d2.errors import CdlError
from cdl_d2.nn import Frozen
from cdl_d2.transfer import teachers_view

# Outputs of student and teacher can be compared only if these are the same in both configs.
SHARED_KEYS = (
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
)


class Teacher:
    """A frozen pixel R-CNN, asked for its pyramid and for its heads' outputs at given places.

    It is no part of the student: see `Frozen`. Nothing it returns carries a gradient.

    Args:
        network: Detectron2's GeneralizedRCNN with StandardROIHeads.
        image_format: the order of channels that it was trained with, `BGR` or `RGB`.
    """

    def __init__(self, network: GeneralizedRCNN, image_format: str):
        check_heads(network)
        self._frozen = Frozen(network)
        self._network = network
        self._image_format = image_format

    def on(self, device: torch.device) -> Teacher:
        """The same teacher, moved to `device` if it was elsewhere."""
        self._frozen.on(device)
        return self

    @torch.no_grad()
    def pyramid(
        self,
        items: list[dict[str, Any]],
        image_format: str,
        image_sizes: list[tuple[int, int]],
        padded_size: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """Features of the items' images, padded on the right and below as the student's are.

        Args:
            items: each with `image`, 3 x H x W in 0..255, channels as `image_format` says.
            image_sizes, padded_size: what the student sees, (H, W) in pixels of each image and of
                the padded batch.

        Raises:
            ValueError: if an item has no image, or one of another size than the student sees.
        """
        normalize = normalizer(self._network, swap=image_format != self._image_format)
        return self._network.backbone(teachers_view(items, image_sizes, padded_size, normalize))

    @torch.no_grad()
    def anchors(
        self, pyramid: dict[str, torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """RPN outputs a level: objectness logits N x A x H_i x W_i, deltas N x 4A x H_i x W_i."""
        rpn = self._network.proposal_generator
        return rpn.rpn_head([pyramid[level] for level in rpn.in_features])

    @torch.no_grad()
    def boxes(
        self, pyramid: dict[str, torch.Tensor], boxes: list[Boxes]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits R x (K + 1) and box deltas R x 4K at the boxes of each image."""
        heads = self._network.roi_heads
        pooled = heads.box_pooler([pyramid[level] for level in heads.box_in_features], boxes)
        return heads.box_predictor(heads.box_head(pooled))

    @torch.no_grad()
    def masks(self, pyramid: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """Mask logits R x K x S x S at the boxes of each image."""
        return mask_logits(self._network.roi_heads, pyramid, boxes)


def normalizer(network: nn.Module, swap: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """From an item's image, 3 x H x W in 0..255, to the input of a network of Detectron2; `swap`
    turns the order of its channels around."""

    def normalize(image: torch.Tensor) -> torch.Tensor:
        pixels = image.to(network.device)
        return ((pixels.flip(0) if swap else pixels) - network.pixel_mean) / network.pixel_std

    return normalize


def check_heads(network: GeneralizedRCNN) -> None:
    """Raise ValueError unless the RoI heads are of the kind whose outputs can be compared."""
    heads = network.roi_heads
    plain = isinstance(heads, StandardROIHeads) and isinstance(
        heads.box_predictor, FastRCNNOutputLayers
    )
    if not plain or (heads.mask_on and not isinstance(heads.mask_head, MaskRCNNConvUpsampleHead)):
        raise CdlError(
            f"transfer compares Detectron2's standard RoI heads, not {type(heads).__name__} with "
            f"{type(heads.box_predictor).__name__}: set MODEL.TRANSFER.OUTPUTS.ENABLED False or "
            "MODEL.ROI_HEADS.NAME StandardROIHeads"
        )
    if heads.train_on_pred_boxes:
        raise CdlError(
            "transfer compares heads at the sampled proposals: set "
            "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES False"
        )


def mask_logits(heads, pyramid: dict[str, torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
    """Mask logits R x K x S x S that StandardROIHeads give for boxes."""
    pooled = heads.mask_pooler([pyramid[level] for level in heads.mask_in_features], boxes)
    return heads.mask_head.layers(pooled)


def build_teacher(cfg: CfgNode) -> Teacher:
    """The teacher of a student's config, from MODEL.TEACHER.

    Raises:
        FileNotFoundError: if its config or weights do not exist.
        ValueError: if it is not named, does not fit the student, or its weights are incomplete.
    """
    theirs = teacher_config(cfg)
    _check_agreement(cfg, theirs)
    weights = cfg.MODEL.TEACHER.WEIGHTS or theirs.MODEL.WEIGHTS
    if not weights:
        raise CdlError(
            f"the teacher {cfg.MODEL.TEACHER.CONFIG_FILE} has no weights: give "
            "MODEL.TEACHER.WEIGHTS"
        )
    network = build_model(theirs)
    load_all_weights(network, weights)
    return Teacher(network, theirs.INPUT.FORMAT)


def teacher_config(cfg: CfgNode) -> CfgNode:
    """The config that MODEL.TEACHER.CONFIG_FILE of a student's config names, on its device."""
    theirs = read_config(_config_path(cfg.MODEL.TEACHER.CONFIG_FILE))
    theirs.MODEL.DEVICE = cfg.MODEL.DEVICE
    return theirs


def _config_path(name: str) -> Path:
    if not name:
        raise CdlError("knowledge transfer needs a teacher: give MODEL.TEACHER.CONFIG_FILE")
    zoo = Path(detectron2.__file__).parent / "model_zoo" / "configs" / name
    for path in (Path(name), zoo):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"the teacher's config {name} is neither a file nor a config of Detectron2's model zoo"
    )


def _check_agreement(ours: CfgNode, theirs: CfgNode) -> None:
    for key in SHARED_KEYS:
        student, teacher = (reduce(getattr, key.split("."), cfg) for cfg in (ours, theirs))
        if student != teacher:
            raise CdlError(f"{key} is {student} for the student but {teacher} for the teacher")
    if ours.MODEL.MASK_ON and not theirs.MODEL.MASK_ON:
        raise CdlError("MODEL.MASK_ON is True for the student but False for the teacher")
