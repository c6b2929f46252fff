"""A codec that is trained further, for example jointly with a network on its latents."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.codec.latent import CodecIdentity, crop_to_image, pad_for_coding
from cdl_d2.errors import CdlError, check_choice

QUANTIZATIONS = ("noise", "straight-through")
PARTS = ("encoder", "hyperprior", "decoder")


@dataclass
class CodedImages:
    """Output of a trainable codec for N images of H x W pixels, with gradients.

    Attributes:
        y_hat: N x C x ceil(H/16) x ceil(W/16), quantized such that gradients pass, cropped to the
            images.
        scales_hat: predicted standard deviations, shaped as y_hat, 0 for global channels; None for
            a codec without a hyperprior.
        x_hat: N x 3 x H x W, reconstructions, not clamped to [0, 1].
        bits_per_pixel: estimate with additive noise, a scalar over all pixels of the images.
        quantized_bits_per_pixel: estimate for rounded values, as in files; without gradients.
        distortion: mean squared error on the 0..255 scale, a scalar.
    """

    y_hat: torch.Tensor
    scales_hat: torch.Tensor | None
    x_hat: torch.Tensor
    bits_per_pixel: torch.Tensor
    quantized_bits_per_pixel: torch.Tensor
    distortion: torch.Tensor

    def detach(self) -> CodedImages:
        """Return the same output without gradients."""
        tensors = {key: value for key, value in vars(self).items() if value is not None}
        return replace(self, **{key: value.detach() for key, value in tensors.items()})


class TrainableCodec(nn.Module):
    """Copy of a codec's network with gradients through the quantizer, some parts frozen.

    Likelihoods are computed with additive noise, as in CompressAI's training. The input of the task
    and the decoder is, with `noise`, the noisy latent; with `straight-through`, the latent that a
    receiver decodes (rounded around the predicted mean or the channel's median), with the gradient
    of y (*High-Fidelity Generative Image Compression*, arXiv 2006.09965, section 3.2). The
    hyperprior then also takes the rounded z.

    Attributes:
        start: identity of the codec at the start of training.

    Args:
        codec: initialization; it is not changed.
        quantization: `noise` or `straight-through`.
        trained: parts that are trained: `encoder` (g_a), `hyperprior` (all entropy models) and
            `decoder` (g_s).

    Raises:
        CdlError: for an unknown quantization or part; for straight-through with a codec that has a
            context model, whose means depend on what was decoded before; for a variable-rate one or
            one with a `latent_codec`.
    """

    def __init__(self, codec: Codec, quantization: str, trained: Sequence[str]):
        super().__init__()
        check_choice("quantization", quantization, QUANTIZATIONS)
        unknown = set(trained) - set(PARTS)
        if unknown:
            raise CdlError(f"part {min(unknown)!r} of a codec is not one of {PARTS}")
        self._straight = quantization == "straight-through"
        if not codec.coder.training_quantizations:
            raise CdlError(
                f"{codec.name} has several rates, or a latent codec, which is not trained here: "
                "take another codec"
            )
        if quantization not in codec.coder.training_quantizations:
            raise CdlError(
                f"straight-through rounding is for codecs without a context model; {codec.name} "
                "decodes step by step: take quantization noise"
            )
        self.network, self.start = copy.deepcopy(codec.network), codec.identity
        self._learns_entropy = "hyperprior" in trained
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(find_part(name) in trained)

    def forward(self, images: torch.Tensor) -> CodedImages:
        """Code N x 3 x H x W images, RGB in [0, 1], padded as `Codec.encode` pads them."""
        records: dict[str, Any] = {"quantized": []}
        images = images.float()
        with self._recording(records), torch.autocast(images.device.type, enabled=False):
            coded = self.network.train()(pad_for_coding(images))  # in float32, as in Codec
        height, width = images.shape[2:]
        y_hat, scales_hat = records["y_hat"], records.get("scales_hat")
        if scales_hat is not None:
            missing = y_hat.shape[1] - scales_hat.shape[1]  # global channels
            scales_hat = F.pad(scales_hat, (0, 0, 0, 0, 0, missing))
            scales_hat = crop_to_image(scales_hat, (height, width))
        x_hat = coded["x_hat"][..., :height, :width]
        pixels = len(images) * height * width
        return CodedImages(
            y_hat=crop_to_image(y_hat, (height, width)),
            scales_hat=scales_hat,
            x_hat=x_hat,
            bits_per_pixel=_bits(coded["likelihoods"].values()) / pixels,
            quantized_bits_per_pixel=_bits(records["quantized"]) / pixels,
            distortion=255**2 * (x_hat - images).square().mean(),
        )

    def _recording(self, records: dict[str, Any]) -> ExitStack:
        """Return a context that records intermediate results, and rounds if straight-through."""
        from compressai.entropy_models import EntropyModel

        def record_y_hat(_, inputs) -> None:
            records["y_hat"] = inputs[0]

        def record_scales(_, inputs) -> None:
            records["scales_hat"] = inputs[1]

        @torch.no_grad()
        def quantize(model: EntropyModel, inputs, keywords, output) -> None:
            _, likelihoods = model.forward(*inputs, **(keywords | {"training": False}))
            records["quantized"].append(likelihoods)

        hooks, network = ExitStack(), self.network
        hooks.enter_context(network.g_s.register_forward_pre_hook(record_y_hat))
        if hasattr(network, "gaussian_conditional"):
            gaussian = network.gaussian_conditional
            hooks.enter_context(gaussian.register_forward_pre_hook(record_scales))
        for module in network.children():
            if isinstance(module, EntropyModel):
                for hook in (quantize, self._round) if self._straight else (quantize,):
                    hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        return hooks

    def _round(self, model: nn.Module, inputs, keywords, output):
        """Replace an entropy model's noisy values by rounded ones with the gradient of y."""
        y, center = inputs[0], 0
        if hasattr(model, "quantiles"):
            center = model.quantiles[:, :, 1:2]
        elif self.start.quantization == "dequantized":
            center = keywords.get("means", 0)
        rounded = torch.round(y - center) + center
        return rounded.detach() + (y - y.detach()), output[1]

    def quantile_loss(self) -> torch.Tensor:
        """Return CompressAI's auxiliary loss, whose only gradient is that of the quantiles.

        It is averaged over quantiles; CompressAI's sum would dominate all other losses.
        """
        named = self.network.named_parameters()
        count = sum(p.numel() for name, p in named if name.endswith(".quantiles"))
        return self.network.aux_loss() / count

    def as_codec(self) -> Codec:
        """Return a frozen codec with the current weights and rebuilt entropy tables."""
        network = copy.deepcopy(self.network).eval()
        with torch.no_grad():
            network.update(force=True, update_quantiles=self._learns_entropy)
        start = self.start
        return Codec(network, start.name, start.quality, start.metric, start.quantization)

    def save(self, path: str | Path) -> CodecIdentity:
        """Save the current weights as a codec's weights file, and return the codec's identity."""
        codec = self.as_codec()
        details = {"name": codec.name, "quality": str(codec.identity.quality)}
        save_weights(Path(path), codec.network, details)
        return codec.identity


def _bits(likelihoods: Iterable[torch.Tensor]) -> torch.Tensor:
    return sum(-torch.log2(values).sum() for values in likelihoods)


def find_part(parameter: str) -> str:
    """Return the part of a codec that a parameter of its network belongs to."""
    return {"g_a": "encoder", "g_s": "decoder"}.get(parameter.partition(".")[0], "hyperprior")
