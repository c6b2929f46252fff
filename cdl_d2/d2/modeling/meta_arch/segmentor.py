"""Semantic segmentation on latents, decoded images or original images (*Semantic Segmentation in
Learned Compressed Domain*)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from torch import nn

from cdl_d2.codec import STRIDE, Codec
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import read_config
from cdl_d2.d2.modeling.backbone.latent_deeplab import FIRST
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.d2.modeling.teacher import normalizer
from cdl_d2.errors import CdlError
from cdl_d2.nn import Frozen
from cdl_d2.nn.coded_input import item_image_size, reported
from cdl_d2.transfer import feature_transfer_loss, teachers_view


@META_ARCH_REGISTRY.register()
class CompressedSegmentor(CompressedModel, SemanticSegmentor):
    """Detectron2's SemanticSegmentor in the compressed domain; label maps are in pixels.

    A batch item needs `image` only, and in training `sem_seg`, H x W labels.
    """

    @configurable
    def __init__(
        self,
        *,
        codec: Codec | None,
        domain: str,
        image_format: str,
        selection: SelectedChannels | None = None,
        **kwargs,
    ):
        """
        Args:
            codec, domain, image_format, selection: see CompressedModel.
            kwargs: those of SemanticSegmentor.
        """
        super().__init__(**kwargs)
        self.enter_domain(codec, domain, image_format, selection)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        order = {"image_format": cfg.INPUT.FORMAT}
        return {**super().from_config(cfg), **cls.domain_of(cfg), **order}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """As SemanticSegmentor.forward; in evaluation with `bits` and `image_size` of coded images.

        Raises:
            ValueError: for a label that the head has no output for; see encode_item.
        """
        items = self.select(self.encode(batched_inputs))
        batch = self.batch(items)
        if self.training:
            return self.losses(items, batch)[1]
        logits = self.sem_seg_head(self.backbone(batch.tensor))[0]
        return [
            self._output(each, size, item)
            for each, size, item in zip(logits, batch.image_sizes, items, strict=True)
        ]

    def losses(
        self, items: list[dict[str, Any]], batch: ImageList
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Features, and `loss_sem_seg` and, of a gate, `loss_rate`."""
        features = self.backbone(batch.tensor)
        losses = self.sem_seg_head(features, self.labels(items, batch))[1]
        return features, losses | self.selection_losses(items)

    def batch(self, items: list[dict[str, Any]]) -> ImageList:
        """What the backbone reads, padded; sizes always in pixels."""
        sizes = [item_image_size(item) for item in items]
        if self.domain == "latent":
            inputs = [item["latent"].to(self.device) for item in items]
        else:
            key = "reconstruction" if self.domain == "reconstruction" else "image"
            pixels = [item[key].to(self.device) for item in items]
            inputs = [(image - self.pixel_mean) / self.pixel_std for image in pixels]
        multiple = max(self.backbone.size_divisibility, STRIDE) // self._scale
        return ImageList(ImageList.from_tensors(inputs, multiple).tensor, sizes)

    def labels(self, items: list[dict[str, Any]], batch: ImageList) -> torch.Tensor:
        """Label maps, N x H x W, padded as the batch is with the label to ignore.

        Raises:
            ValueError: for a label that the head has no output for.
        """
        height, width = (side * self._scale for side in batch.tensor.shape[2:])
        head, padded = self.sem_seg_head, []
        classes = head.predictor.out_channels
        for item, size in zip(items, batch.image_sizes, strict=True):
            labels = item["sem_seg"].to(self.device).long()
            if tuple(labels.shape) != size:
                raise CdlError(
                    f"a label map of {tuple(labels.shape)} pixels for an image of {size}: both "
                    "must be of one geometry"
                )
            wrong = labels[(labels != head.ignore_value) & ((labels < 0) | (labels >= classes))]
            if len(wrong):
                raise CdlError(
                    f"label {int(wrong[0])} is neither in 0..{classes - 1} nor the label to ignore "
                    f"({head.ignore_value}): set MODEL.SEM_SEG_HEAD.NUM_CLASSES or IGNORE_VALUE"
                )
            room = (0, width - labels.shape[1], 0, height - labels.shape[0])
            padded.append(F.pad(labels, room, value=head.ignore_value))
        return torch.stack(padded)

    @property
    def _scale(self) -> int:
        return STRIDE if self.domain == "latent" else 1

    def _output(
        self, logits: torch.Tensor, size: tuple[int, int], item: dict[str, Any]
    ) -> dict[str, Any]:
        height, width = item.get("height", size[0]), item.get("width", size[1])
        return {"sem_seg": sem_seg_postprocess(logits, size, height, width), **reported(item)}


@META_ARCH_REGISTRY.register()
class TransferSegmentor(CompressedSegmentor):
    """A CompressedSegmentor on latents, whose res2 is taught by a pixel DeepLab's (formulas 2, 3).

    The teacher is no part of the model's state.
    """

    @configurable
    def __init__(self, *, teacher: Callable[[], nn.Module], weight: float, **kwargs):
        """
        Args:
            teacher: makes a CompressedSegmentor of domain `image`.
            weight: lambda_1 of formula (3).
            kwargs: those of CompressedSegmentor, of domain `latent`.
        """
        super().__init__(**kwargs)
        if self.domain != "latent":
            raise CdlError(f"res2 is taught on latents, not on domain {self.domain!r}")
        self._build_teacher, self._teacher, self._weight = teacher, None, weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        arguments = super().from_config(cfg)
        build = {"teacher": lambda: build_segmentor_teacher(cfg)}
        return {**arguments, **build, "weight": cfg.MODEL.TRANSFER.WEIGHT}

    def prepare_teacher(self) -> None:
        """Build the teacher now rather than at the first training step.

        Raises:
            FileNotFoundError, ValueError: see build_segmentor_teacher.
        """
        if self._teacher is None:
            self._teacher = Frozen(self._build_teacher())

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """As CompressedSegmentor.forward; in training with `loss_transfer_res2`."""
        if not self.training or not self._weight:
            return super().forward(batched_inputs)
        self.prepare_teacher()
        items = self.select(self.encode(batched_inputs))
        batch = self.batch(items)
        features, losses = self.losses(items, batch)
        distance = feature_transfer_loss(
            {FIRST: features[FIRST]},
            {FIRST: self._teachers_feature(items, batch)},
            image_sizes=batch.image_sizes,
            strides={FIRST: self.backbone.output_shape()[FIRST].stride},
        )
        return losses | {"loss_transfer_res2": self._weight * distance}

    @torch.no_grad()
    def _teachers_feature(self, items: list[dict[str, Any]], batch: ImageList) -> torch.Tensor:
        teacher = self._teacher.on(self.device)
        normalize = normalizer(teacher, swap=self.image_format != teacher.image_format)
        padded_size = tuple(side * STRIDE for side in batch.tensor.shape[2:])
        views = teachers_view(items, batch.image_sizes, padded_size, normalize)
        return first_layers(teacher.backbone, views)


def first_layers(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """The feature res2 of a ResNet, without running what comes after it."""
    return backbone.res2(backbone.stem(images))


def build_segmentor_teacher(cfg: CfgNode) -> nn.Module:
    """The pixel segmentor that MODEL.TEACHER names, with all its weights.

    Raises:
        FileNotFoundError: if its config or weights do not exist.
        ValueError: if it is not named, looks at something else than images, or its res2 has
            another width.
    """
    teacher = cfg.MODEL.TEACHER
    if not teacher.CONFIG_FILE:
        raise CdlError("knowledge transfer needs a teacher: give MODEL.TEACHER.CONFIG_FILE")
    theirs = read_config(teacher.CONFIG_FILE)
    if theirs.INPUT.DOMAIN != "image":
        raise CdlError(f"the teacher looks at domain {theirs.INPUT.DOMAIN!r}, not at images")
    key = "RES2_OUT_CHANNELS"
    if theirs.MODEL.RESNETS[key] != cfg.MODEL.RESNETS[key]:
        raise CdlError(
            f"MODEL.RESNETS.{key} is {cfg.MODEL.RESNETS[key]} for the student but "
            f"{theirs.MODEL.RESNETS[key]} for the teacher"
        )
    theirs.MODEL.DEVICE = cfg.MODEL.DEVICE
    network = CompressedSegmentor(theirs)
    load_all_weights(network, teacher.WEIGHTS or theirs.MODEL.WEIGHTS)
    return network
