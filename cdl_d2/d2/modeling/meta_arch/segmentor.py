"""Semantic segmentation on latents, decoded images or original images (*Semantic Segmentation in
Learned Compressed Domain*)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.backbone import Backbone, ResNet
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.projects.deeplab import DeepLabV3Head
from detectron2.structures import ImageList
from torch import nn

from cdl_d2.d2.modeling.label_maps import padded_labels
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.d2.modeling.student import Student, transfer_options
from cdl_d2.d2.modeling.teacher import build_teacher
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import get_output_size, rate_fields
from cdl_d2.transfer import SegmentorTransfer

FIRST = "res2"  # the feature that is taught


@META_ARCH_REGISTRY.register()
class CompressedSegmentor(CompressedModel, SemanticSegmentor):
    """Detectron2's SemanticSegmentor in the compressed domain; label maps are in pixels."""

    @configurable
    def __init__(
        self, *, coded_input: CodedInput, selection: SelectedChannels | None = None, **kwargs
    ):
        """
        Args:
            coded_input, selection: what is looked at, see CompressedModel.
            kwargs: those of SemanticSegmentor.

        Raises:
            CdlError: if a DeepLab head expects another stride than the backbone gives.
        """
        super().__init__(**kwargs)
        self.set_input(coded_input, selection)
        head = self.sem_seg_head
        if isinstance(head, DeepLabV3Head):
            stride = self.backbone.output_shape()[head.in_features[0]].stride
            if stride != head.common_stride:
                raise CdlError(
                    f"{head.in_features[0]} has stride {stride}: set MODEL.RESNETS.RES4_DILATION "
                    "and RES5_DILATION, or MODEL.TIMM.OUTPUT_STRIDE, for the "
                    f"{head.common_stride} that MODEL.SEM_SEG_HEAD.COMMON_STRIDE says"
                )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **cls.input_from_config(cfg)}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Losses in training; otherwise scores of the classes of every pixel.

        Args:
            batched_inputs: items, each with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or instead
                latent or reconstruction, see CodedInput.encode, and image_size: (H, W);
                sem_seg: in training, H x W labels;
                height, width: of the original image, to which results are scaled; optional.

        Returns:
            in training `loss_sem_seg` and, of a gate, `loss_rate`; otherwise a dict an item:
            `sem_seg`, K x height x width, and of a coded image `bits`, `image_size` and, of a model
            that selects, `channels`.

        Raises:
            CdlError: for a label that the head has no output for; see CodedInput.encode.
        """
        items = self.select_channels(self.encode(batched_inputs))
        batch = self.batch(items)
        if self.training:
            return self.features_and_losses(items, batch)[1]
        logits = self._logits(batch)
        return [
            self._output(each, size, item)
            for each, size, item in zip(logits, batch.image_sizes, items, strict=True)
        ]

    def _logits(self, batch: ImageList) -> torch.Tensor:
        """Return scores N x K x H x W of a batch.

        Raises:
            CdlError: for a size that a DeepLab head does not pool.
        """
        try:
            return self.sem_seg_head(self.backbone(batch.tensor))[0]
        except ValueError as error:
            sizes = " and ".join(f"{h} x {w}" for h, w in sorted(set(batch.image_sizes)))
            raise CdlError(
                f"images of {sizes} pixels: this head pools only whole multiples of the size that "
                f"it was built for, INPUT.CROP.SIZE ({error})"
            ) from error

    def features_and_losses(
        self, items: list[dict[str, Any]], batch: ImageList
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Features, and `loss_sem_seg` and, of a gate, `loss_rate`."""
        features = self.backbone(batch.tensor)
        losses = self.sem_seg_head(features, self.labels(items, batch))[1]
        return features, losses | self.gate_losses(items)

    def labels(self, items: list[dict[str, Any]], batch: ImageList) -> torch.Tensor:
        """Label maps, N x H x W, padded as the batch is; raises as padded_labels."""
        size = self.coded_input.padded_size(batch.tensor)
        return padded_labels(self.sem_seg_head, items, batch.image_sizes, size, self.device)

    def _output(
        self, logits: torch.Tensor, size: tuple[int, int], item: dict[str, Any]
    ) -> dict[str, Any]:
        scores = sem_seg_postprocess(logits, size, *get_output_size(item))
        return {"sem_seg": scores, **rate_fields(item)}


@META_ARCH_REGISTRY.register()
class TransferSegmentor(Student, CompressedSegmentor):
    """A CompressedSegmentor on latents, whose res2 is taught by a pixel DeepLab's (formulas 2, 3).

    The teacher is no part of it, see Student.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: nn.Module | Callable[[], nn.Module],
        transfer: SegmentorTransfer,
        **kwargs,
    ):
        """
        Args:
            teacher: a segmentor on pixels, or what makes one, see build_segmentor_teacher.
            transfer: the loss.
            kwargs: those of CompressedSegmentor, of domain `latent`.
        """
        super().__init__(**kwargs)
        if self.coded_input.has_pixels:
            raise CdlError(f"res2 is taught on latents, not on domain {self.coded_input.domain!r}")
        if FIRST not in self.backbone.output_shape():
            raise CdlError(f"the backbone lacks {FIRST!r}, which is taught: add it to OUT_FEATURES")
        self.set_teacher(teacher, enabled=bool(transfer.terms))
        self._transfer = transfer

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().from_config(cfg),
            "teacher": partial(build_segmentor_teacher, cfg),
            "transfer": cls.build_transfer(cfg),
        }

    @staticmethod
    def build_transfer(cfg: CfgNode) -> SegmentorTransfer:
        """The loss that MODEL.TRANSFER says."""
        return SegmentorTransfer(**transfer_options(cfg, {FIRST: 1.0}))

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """CompressedSegmentor.forward, in training with `loss_transfer_res2`; items then need the
        original `image` too."""
        if not (self.training and self.uses_teacher):
            return super().forward(batched_inputs)
        items = self.select_channels(self.encode(batched_inputs))
        batch = self.batch(items)
        features, losses = self.features_and_losses(items, batch)
        theirs = self._teachers_feature(items, batch)
        stride = self.backbone.output_shape()[FIRST].stride
        return losses | self._transfer(features[FIRST], theirs, batch.image_sizes, stride)

    @torch.no_grad()
    def _teachers_feature(self, items: list[dict[str, Any]], batch: ImageList) -> torch.Tensor:
        teacher = self.teacher
        return first_layers(teacher.backbone, self.teacher_batch(teacher, items, batch))


def first_layers(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """The feature res2; of a ResNet without running what comes after it."""
    if isinstance(backbone, ResNet):
        return backbone.res2(backbone.stem(images))
    return backbone(images)[FIRST]


def build_segmentor_teacher(cfg: CfgNode) -> nn.Module:
    """The pixel segmentor that MODEL.TEACHER names, with all its weights.

    Raises:
        FileNotFoundError, CdlError: see build_teacher; CdlError if it has no res2, or one of
            another width.
    """
    network = build_teacher(cfg, _check_width)
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, ResNet) and FIRST not in getattr(backbone, "output_shape", dict)():
        raise CdlError(
            f"the teacher {cfg.MODEL.TEACHER.CONFIG_FILE} has no res2 to learn from: take one "
            "whose MODEL.BACKBONE.NAME is build_resnet_deeplab_backbone, build_resnet_backbone or "
            "build_timm_backbone"
        )
    return network


def _check_width(ours: CfgNode, theirs: CfgNode) -> None:
    widths = [cfg.MODEL.RESNETS.RES2_OUT_CHANNELS for cfg in (ours, theirs)]
    if widths[0] != widths[1]:
        raise CdlError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {widths[0]} for the student but {widths[1]} for "
            "the teacher"
        )
