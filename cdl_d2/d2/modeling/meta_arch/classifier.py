"""Image classifiers on latents, reconstructions or original images.

Shapes: N images, K classes.
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

from cdl_d2.codec.latent import latent_grid
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
from cdl_d2.nn.bridge.input_adapter import announce_images
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import rate_fields
from cdl_d2.transfer import ClassifierTransfer


@META_ARCH_REGISTRY.register()
class CompressedClassifier(CompressedModel):
    """Classifier of *Learning in Compressed Domain via Knowledge Transfer*, section 3.2.

    A sample has `image`, 3 x H x W in 0..255, or what CodedInput.encode adds to it, and in training
    `label`, an index from 0.

    Args:
        network: from latents (and scales), or normalized RGB images, to logits.
        coded_input: domain, codec and channel order.
        num_classes: K.
        selection: selection of a latent's channels; None for all.
        augmentation: of latents, approximate; None for none.
        report_distortion: measure PSNR and MS-SSIM of reconstructions in evaluation.
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
        super().__init__()
        self.network, self.num_classes = network, num_classes
        self.set_input(coded_input, selection)
        self._augmentation, self._report_distortion = augmentation, report_distortion

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        domain, augmentation = cfg.INPUT.DOMAIN, None
        if cfg.TEST.DISTORTION and cfg.MODEL.SELECTION.KIND != "none":
            raise CdlError(
                "TEST.DISTORTION measures all channels, the rate the selected ones: set it "
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
        return cfg.MODEL.CLASSIFIER.NETWORK == "cresnet39" and cfg.MODEL.CLASSIFIER.SCALES

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return losses in training, otherwise a dict per sample.

        Returns:
            `loss_cls`, the cross entropy, and with a gate `loss_rate`; or for each sample `scores`,
            K probabilities, of a coded image `bits` and `image_size`, and with `report_distortion`
            `psnr` and `ms_ssim`.

        Raises:
            CdlError: for a label that is no class, or samples of several sizes.
        """
        samples = self.select_channels(self.encode(batched_inputs))
        if self.training:
            losses = {"loss_cls": F.cross_entropy(self.logits(samples), self.labels(samples))}
            return losses | self.gate_losses(samples)
        probabilities = self.logits(samples).softmax(dim=1)
        return [
            {"scores": scores, **rate_fields(sample), **self._distortion(sample)}
            for scores, sample in zip(probabilities, samples, strict=True)
        ]

    def _distortion(self, sample: dict[str, Any]) -> dict[str, float | None]:
        if not self._report_distortion or "image" not in sample:
            return {}
        codec = self.coded_input.codec_on(self.device)
        image = self.coded_input.swap(sample["image"].to(self.device))
        reconstruction = codec.decode(codec.encode(image.float() / 255, with_bits=False))
        psnr, ms_ssim = psnr_and_ms_ssim(image, torch.round(reconstruction * 255))
        return {"psnr": psnr, "ms_ssim": ms_ssim}

    def logits(self, samples: list[dict[str, Any]]) -> torch.Tensor:
        """Return the class logits, N x K, of encoded samples."""
        inputs = [self._stack(samples, key) for key in self.coded_input.keys]
        if self.coded_input.margin:
            announce_images(self.network, [sample["latent"] for sample in samples])
        if self.coded_input.has_pixels:
            inputs = [self.normalized(pixels) for pixels in inputs]
        if self._augmentation is not None:
            inputs = self._augmentation(inputs, self.training)
        return self.network(*inputs)

    def labels(self, samples: list[dict[str, Any]]) -> torch.Tensor:
        """Return the N labels of samples.

        Raises:
            CdlError: for a label that is no class.
        """
        labels = torch.tensor([sample["label"] for sample in samples], device=self.device)
        wrong = [v for v in labels.tolist() if not 0 <= v < self.num_classes]
        if wrong:
            raise CdlError(
                f"label {wrong[0]} is not in 0..{self.num_classes - 1}: set "
                "MODEL.CLASSIFIER.NUM_CLASSES to the number of classes"
            )
        return labels

    def normalized(self, pixels: torch.Tensor, network: nn.Module | None = None) -> torch.Tensor:
        """Normalize pixels in 0..255, ... x 3 x H x W, for a network; by default the model's."""
        rgb = self.coded_input.swap(pixels.to(self.device)) / 255
        statistics = pixel_statistics(network or self.network)
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in statistics)
        return (rgb - mean) / std

    def _stack(self, samples: list[dict[str, Any]], key: str) -> torch.Tensor:
        incomplete = [sorted(sample) for sample in samples if key not in sample]
        if incomplete:
            raise CdlError(
                f"a sample has no {key!r}, which this network reads, only {incomplete[0]}: encode "
                "images, or store bitstreams"
            )
        tensors = [sample[key].to(self.device) for sample in samples]
        if self._augmentation is not None and key in ("latent", "scales"):
            tensors = [self._augmentation.resize(t) for t in tensors]
        elif key == "latent" and self.coded_input.margin:
            tensors = [self._fit_margin(*pair) for pair in zip(tensors, samples, strict=True)]
        sizes = {tuple(t.shape[1:]) for t in tensors}
        if len(sizes) > 1:
            alternative = ", or INPUT.AUGMENTATION latent, which resizes latents"
            raise CdlError(
                f"a batch has {key}s of several sizes, {sorted(sizes)}: set INPUT.IMAGE_SIZE, to "
                f"which images are cropped{alternative if key != 'image' else ''}"
            )
        return torch.stack(tensors).float()

    def _fit_margin(self, latent: torch.Tensor, sample: dict[str, Any]) -> torch.Tensor:
        """Return a latent with a margin of the bridge's size, of zeros where none is coded."""
        sides = zip(latent_grid(self.coded_input.image_size(sample)), latent.shape[1:], strict=True)
        below, right = (side + self.coded_input.margin - own for side, own in sides)
        return F.pad(latent, (0, right, 0, below))


@META_ARCH_REGISTRY.register()
class TransferClassifier(Student, CompressedClassifier):
    """CompressedClassifier distilled from an RGB teacher, by the losses of formula (1).

    Args:
        teacher: RGB model with the same classes, or a function that builds it. It is frozen, takes
            the original images, and is not part of the model's state.
        transfer: the losses.
        kwargs: arguments of CompressedClassifier.
    """

    @configurable
    def __init__(
        self,
        *,
        teacher: nn.Module | Callable[[], nn.Module],
        transfer: ClassifierTransfer,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self._augmentation is not None and transfer.compares_features:
            raise CdlError(
                "INPUT.AUGMENTATION latent crops and flips the student's input and not the "
                "teacher's, so that their features cannot be compared: set INPUT.AUGMENTATION "
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
        """Build the losses of MODEL.TRANSFER."""
        stages = cfg.MODEL.TRANSFER.FEATURES
        features = {"c4": stages.C4, "c5": stages.C5}
        return ClassifierTransfer(**transfer_options(cfg, features, ["class"]))

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return, in training, also `loss_transfer_class` and `loss_transfer_STAGE`.

        Training samples need `image`, too.
        """
        if not (self.training and self.uses_teacher):
            return super().forward(batched_inputs)
        teacher = self.teacher
        samples = self.select_channels(self.encode(batched_inputs))
        with stage_features(self._compared_layers(self.network)) as features:
            logits = self.logits(samples)
        images = self.normalized(self._stack(samples, "image"), teacher)
        with torch.no_grad(), stage_features(self._compared_layers(teacher)) as teacher_features:
            teacher_logits = teacher(images)
        losses = {"loss_cls": F.cross_entropy(logits, self.labels(samples))}
        losses |= self.gate_losses(samples)
        return losses | self._transfer(features, teacher_features, logits, teacher_logits)

    def _compared_layers(self, network: nn.Module) -> dict[str, nn.Module]:
        if not self._transfer.compares_features:
            return {}
        with with_advice("set MODEL.TRANSFER.FEATURES.ENABLED False"):
            return stage_ends(network)
