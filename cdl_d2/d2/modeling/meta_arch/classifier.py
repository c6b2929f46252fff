"""Image classifiers whose input is a codec's latent, a decoded image, or the original image.

Shapes: N images, M latent channels, h x w cells, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.d2.modeling.classifier_networks import (
    build_classifier_network,
    build_classifier_teacher,
)
from cdl_d2.d2.modeling.latent_augmentation import LatentAugmentation
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.d2.modeling.student import Student, transfer_options
from cdl_d2.errors import CdlError, with_advice
from cdl_d2.metrics.image_quality import psnr_and_ms_ssim
from cdl_d2.nn import stage_ends, stage_features
from cdl_d2.nn.backbones.rgb_model import pixel_statistics
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import rate_fields
from cdl_d2.transfer import ClassifierTransfer


@META_ARCH_REGISTRY.register()
class CompressedClassifier(CompressedModel):
    """A ResNet on latents, reconstructions or images (section 3.2 of *Learning in Compressed
    Domain via Knowledge Transfer*).

    A batch item has `image`, 3 x H x W in 0..255, or what CodedInput.encode adds to it, and in
    training `label`, an index from 0.
    """

    @configurable
    def __init__(
        self,
        *,
        network: nn.Module,
        coded_input: CodedInput,
        num_classes: int,
        selection: SelectedChannels | None = None,
        augmentation: LatentAugmentation | None = None,
        report_distortion: bool = False,
    ):
        """
        Args:
            network: from latents (and scales), or normalized RGB images, to logits.
            coded_input, selection: what is looked at, see CompressedModel.
            augmentation: of latents, approximate; None for none.
            report_distortion: decode images in evaluation.
        """
        super().__init__()
        self.network, self.num_classes = network, num_classes
        self.set_input(coded_input, selection)
        self._augmentation, self._report_distortion = augmentation, report_distortion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        domain, augmentation = cfg.INPUT.DOMAIN, None
        if cfg.TEST.DISTORTION and cfg.MODEL.SELECTION.KIND != "none":
            raise CdlError(
                "TEST.DISTORTION is of all channels, and the rate of the selected ones: set it "
                "False, or MODEL.SELECTION.KIND none"
            )
        if cfg.INPUT.AUGMENTATION == "latent":
            augmentation = LatentAugmentation(cfg.INPUT.LATENT_RESIZE, cfg.INPUT.LATENT_CROP)
        return {
            "network": build_classifier_network(cfg),
            **cls.input_from_config(cfg),
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            "augmentation": augmentation if domain == "latent" else None,
            "report_distortion": cfg.TEST.DISTORTION and domain != "image",
        }

    @staticmethod
    def reads_scales(cfg: CfgNode) -> bool:
        """As CompressedModel: cResNet-39 does, unless MODEL.CLASSIFIER.SCALES is off."""
        return cfg.MODEL.CLASSIFIER.NETWORK == "cresnet39" and cfg.MODEL.CLASSIFIER.SCALES

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Losses in training; otherwise a dict an item.

        Returns:
            `loss_cls`, the cross entropy, and of a gate `loss_rate`; or for each item `scores`, K
            probabilities, and of a coded image `bits` and `image_size`, and if asked for `psnr`
            and `ms_ssim`.

        Raises:
            CdlError: for a label that the network has no output for; for items of several sizes;
                see CodedInput.encode.
        """
        items = self.select_channels(self.encode(batched_inputs))
        if self.training:
            losses = {"loss_cls": F.cross_entropy(self.logits(items), self.labels(items))}
            return losses | self.gate_losses(items)
        scores = self.logits(items).softmax(dim=1)
        return [
            {"scores": each, **rate_fields(item), **self._distortion(item)}
            for each, item in zip(scores, items, strict=True)
        ]

    def _distortion(self, item: dict[str, Any]) -> dict[str, float | None]:
        if not self._report_distortion or "image" not in item:
            return {}
        codec = self.coded_input.codec_on(self.device)
        image = self.coded_input.swap(item["image"].to(self.device))
        decoded = codec.decode(codec.encode(image.float() / 255, with_bits=False))
        psnr, ms_ssim = psnr_and_ms_ssim(image, torch.round(decoded * 255))
        return {"psnr": psnr, "ms_ssim": ms_ssim}

    def logits(self, items: list[dict[str, Any]]) -> torch.Tensor:
        """Class logits, N x K, of encoded items."""
        shown = self.coded_input
        inputs = [self._stack(items, key) for key in shown.keys]
        if shown.has_pixels:
            inputs = [self.normalized(pixels) for pixels in inputs]
        if self._augmentation is not None:
            inputs = self._augmentation(inputs, self.training)
        return self.network(*inputs)

    def labels(self, items: list[dict[str, Any]]) -> torch.Tensor:
        """The labels of items, N.

        Raises:
            CdlError: for a label that the network has no output for.
        """
        labels = torch.tensor([item["label"] for item in items], device=self.device)
        wrong = [v for v in labels.tolist() if not 0 <= v < self.num_classes]
        if wrong:
            raise CdlError(
                f"label {wrong[0]} is not in 0..{self.num_classes - 1}: set "
                "MODEL.CLASSIFIER.NUM_CLASSES to the number of classes"
            )
        return labels

    def normalized(self, pixels: torch.Tensor, network: nn.Module | None = None) -> torch.Tensor:
        """What a network, default the model's own, reads of pixels in 0..255, ... x 3 x H x W."""
        rgb = self.coded_input.swap(pixels.to(self.device)) / 255
        statistics = pixel_statistics(network or self.network)
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in statistics)
        return (rgb - mean) / std

    def _stack(self, items: list[dict[str, Any]], key: str) -> torch.Tensor:
        lacks = [sorted(item) for item in items if key not in item]
        if lacks:
            raise CdlError(
                f"a batch item has no {key!r}, which this network reads, only {lacks[0]}: encode "
                "images, or store bitstreams"
            )
        tensors = [item[key].to(self.device) for item in items]
        if self._augmentation is not None and key in ("latent", "scales"):
            tensors = [self._augmentation.resize(t) for t in tensors]
        sizes = {tuple(t.shape[1:]) for t in tensors}
        if len(sizes) > 1:
            otherwise = ", or INPUT.AUGMENTATION latent, which resizes latents"
            raise CdlError(
                f"a batch has {key}s of several sizes, {sorted(sizes)}: set INPUT.IMAGE_SIZE, to "
                f"which images are cropped{otherwise if key != 'image' else ''}"
            )
        return torch.stack(tensors).float()


@META_ARCH_REGISTRY.register()
class TransferClassifier(Student, CompressedClassifier):
    """A CompressedClassifier whose training adds the transfer losses of formula (1).

    The teacher looks at the original images, and is no part of the model's state.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: nn.Module | Callable[[], nn.Module],
        transfer: ClassifierTransfer,
        **kwargs,
    ):
        """
        Args:
            teacher: a pixel network with the same number of classes, or what makes one.
            transfer: the losses.
            kwargs: those of CompressedClassifier.
        """
        super().__init__(**kwargs)
        if self._augmentation is not None and transfer.compares_features:
            raise CdlError(
                "INPUT.AUGMENTATION latent crops and flips what the student sees and not what the "
                "teacher sees, so that their features cannot be compared: set INPUT.AUGMENTATION "
                "exact, or MODEL.TRANSFER.FEATURES.ENABLED False"
            )
        self.set_teacher(teacher, enabled=bool(transfer.terms))
        self._transfer = transfer

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            **super().from_config(cfg),
            "teacher": partial(build_classifier_teacher, cfg),
            "transfer": cls.build_transfer(cfg),
        }

    @staticmethod
    def build_transfer(cfg: CfgNode) -> ClassifierTransfer:
        """The losses that MODEL.TRANSFER says."""
        stages = cfg.MODEL.TRANSFER.FEATURES
        features = {"c4": stages.C4, "c5": stages.C5}
        return ClassifierTransfer(**transfer_options(cfg, features, ["class"]))

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """CompressedClassifier.forward, in training with `loss_transfer_class` and a
        `loss_transfer_<stage>` for each stage that is compared; items then need `image` too."""
        if not (self.training and self.uses_teacher):
            return super().forward(batched_inputs)
        teacher = self.teacher
        items = self.select_channels(self.encode(batched_inputs))
        with stage_features(self._compared_layers(self.network)) as features:
            logits = self.logits(items)
        images = self.normalized(self._stack(items, "image"), teacher)
        with torch.no_grad(), stage_features(self._compared_layers(teacher)) as teacher_features:
            teacher_logits = teacher(images)
        losses = {"loss_cls": F.cross_entropy(logits, self.labels(items))}
        losses |= self.gate_losses(items)
        return losses | self._transfer(features, teacher_features, logits, teacher_logits)

    def _compared_layers(self, network: nn.Module) -> dict[str, nn.Module]:
        if not self._transfer.compares_features:
            return {}
        with with_advice("set MODEL.TRANSFER.FEATURES.ENABLED False"):
            return stage_ends(network)
