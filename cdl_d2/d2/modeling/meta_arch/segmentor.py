"""Semantic segmentation on latents, reconstructions or original images.

The method is that of *Semantic Segmentation in Learned Compressed Domain*.
"""

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

RES2 = "res2"  # feature that is compared with the teacher's


@META_ARCH_REGISTRY.register()
class CompressedSegmentor(CompressedModel, SemanticSegmentor):
    """Detectron2's SemanticSegmentor in the compressed domain; label maps are in pixels.

    Args:
        coded_input: domain, codec and channel order.
        selection: selection of a latent's channels; None for all.
        kwargs: arguments of SemanticSegmentor.

    Raises:
        CdlError: if a DeepLab head expects another stride than the backbone's.
    """

    @configurable
    def __init__(
        self, *, coded_input: CodedInput, selection: SelectedChannels | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        self.set_input(coded_input, selection)
        head = self.sem_seg_head
        if isinstance(head, DeepLabV3Head):
            stride = self.backbone.output_shape()[head.in_features[0]].stride
            if stride != head.common_stride:
                raise CdlError(
                    f"{head.in_features[0]} has stride {stride}: set MODEL.RESNETS.RES4_DILATION "
                    "and RES5_DILATION, or MODEL.TIMM.OUTPUT_STRIDE, for the "
                    f"{head.common_stride} of MODEL.SEM_SEG_HEAD.COMMON_STRIDE"
                )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **cls.input_from_config(cfg)}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return losses in training, otherwise scores of the classes of every pixel.

        Args:
            batched_inputs: samples with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or, as
                CodedInput.encode adds them, latent or reconstruction, and image_size: (H, W);
                sem_seg: in training, H x W labels;
                height, width: optional size of the original image, to which results are scaled.

        Returns:
            in training `loss_sem_seg` and, with a gate, `loss_rate`; otherwise a dict per sample:
            `sem_seg`, K x height x width, and of a coded image `bits`, `image_size` and, with a
            selection, `channels`.

        Raises:
            CdlError: for a label that is no class.
        """
        samples = self.select_channels(self.encode(batched_inputs))
        batch = self.batch(samples)
        if self.training:
            return self.features_and_losses(samples, batch)[1]
        rows = zip(self._logits(batch), batch.image_sizes, samples, strict=True)
        return [
            {"sem_seg": sem_seg_postprocess(logits, size, *get_output_size(sample, size))}
            | rate_fields(sample)
            for logits, size, sample in rows
        ]

    def _logits(self, batch: ImageList) -> torch.Tensor:
        """Return the scores of a batch, N x K x H x W.

        Raises:
            CdlError: for a size that a DeepLab head cannot pool.
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
        self, samples: list[dict[str, Any]], batch: ImageList
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the backbone's features, and `loss_sem_seg` and, with a gate, `loss_rate`."""
        features = self.backbone(batch.tensor)
        losses = self.sem_seg_head(features, self.labels(samples, batch))[1]
        return features, losses | self.gate_losses(samples)

    def labels(self, samples: list[dict[str, Any]], batch: ImageList) -> torch.Tensor:
        """Return the label maps, N x H x W, padded like the batch."""
        size = self.coded_input.padded_size(batch.tensor)
        return padded_labels(self.sem_seg_head, samples, batch.image_sizes, size, self.device)


@META_ARCH_REGISTRY.register()
class TransferSegmentor(Student, CompressedSegmentor):
    """CompressedSegmentor on latents whose res2 is distilled from an RGB model (formulas 2, 3).

    Args:
        teacher: RGB model with a feature res2, or a function that builds it. It is frozen, and not
            part of the model's state.
        transfer: the loss.
        kwargs: arguments of CompressedSegmentor, in domain `latent`.

    Raises:
        CdlError: for another domain, or a backbone without res2.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: nn.Module | Callable[[], nn.Module],
        transfer: SegmentorTransfer,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.coded_input.has_pixels:
            raise CdlError(f"res2 is distilled on latents, not {self.coded_input.domain!r}")
        if RES2 not in self.backbone.output_shape():
            raise CdlError(f"the backbone lacks {RES2!r} to distill: add it to OUT_FEATURES")
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
        """Build the loss of MODEL.TRANSFER."""
        return SegmentorTransfer(**transfer_options(cfg, {RES2: 1.0}))

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return, in training, also `loss_transfer_res2`; samples then need `image`, too."""
        if not (self.training and self.uses_teacher):
            return super().forward(batched_inputs)
        samples = self.select_channels(self.encode(batched_inputs))
        batch = self.batch(samples)
        features, losses = self.features_and_losses(samples, batch)
        teacher_feature = self._teacher_feature(samples, batch)
        stride = self.backbone.output_shape()[RES2].stride
        return losses | self._transfer(features[RES2], teacher_feature, batch.image_sizes, stride)

    @torch.no_grad()
    def _teacher_feature(self, samples: list[dict[str, Any]], batch: ImageList) -> torch.Tensor:
        teacher = self.teacher
        return compute_res2(teacher.backbone, self.teacher_batch(teacher, samples, batch))


def compute_res2(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Return the feature res2; a ResNet's later stages are not computed."""
    if isinstance(backbone, ResNet):
        return backbone.res2(backbone.stem(images))
    return backbone(images)[RES2]


def build_segmentor_teacher(cfg: CfgNode) -> nn.Module:
    """Build the RGB segmentation model of MODEL.TEACHER, with its weights.

    Raises:
        FileNotFoundError: if its config or weights do not exist.
        CdlError: if it has no res2, or one of another width.
    """
    network = build_teacher(cfg, _check_width)
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, ResNet) and RES2 not in getattr(backbone, "output_shape", dict)():
        raise CdlError(
            f"the teacher {cfg.MODEL.TEACHER.CONFIG_FILE} has no res2 to distill from: take one "
            "whose MODEL.BACKBONE.NAME is build_resnet_deeplab_backbone, build_resnet_backbone or "
            "build_timm_backbone"
        )
    return network


def _check_width(student: CfgNode, teacher: CfgNode) -> None:
    width, teacher_width = (c.MODEL.RESNETS.RES2_OUT_CHANNELS for c in (student, teacher))
    if width != teacher_width:
        raise CdlError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {width} for the student but {teacher_width} for "
            "the teacher"
        )
