"""A codec that goes on learning, together with a network that reads its latents."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.codec.latent import CodecIdentity, latent_grid, pad_for_coding
from cdl_d2.errors import CdlError

QUANTIZATIONS = ("noise", "straight-through")
PARTS = ("encoder", "hyperprior", "decoder")


@dataclass
class CodedImages:
    """What a trainable codec makes of N images of H x W pixels; everything carries gradients.

    Attributes:
        y_hat: N x C x ceil(H/16) x ceil(W/16), quantized in a way that lets gradients pass: the
            cells that cover the images, as Latent.cells.
        scales_hat: as y_hat, the deviations that the entropy model predicts, 0 for global channels;
            None without.
        x_hat: N x 3 x H x W, the reconstructions, not clamped to [0, 1].
        bits_per_pixel: scalar, estimated with additive noise, over all images and their own pixels.
        quantized_bits_per_pixel: the same of rounded values, which is what files have; no gradient.
        distortion: scalar, the mean squared error on the 0..255 scale.
    """

    y_hat: torch.Tensor
    scales_hat: torch.Tensor | None
    x_hat: torch.Tensor
    bits_per_pixel: torch.Tensor
    quantized_bits_per_pixel: torch.Tensor
    distortion: torch.Tensor

    def detach(self) -> CodedImages:
        """The same without gradients."""
        tensors = {key: value for key, value in vars(self).items() if value is not None}
        return replace(self, **{key: value.detach() for key, value in tensors.items()})


class TrainableCodec(nn.Module):
    """The network of a codec, parts of it frozen, with gradients through the quantizer.

    `start` is the identity of the codec where training starts.

    Likelihoods are computed with additive noise, as CompressAI trains. The latent that the task
    and the decoder see is the noisy one; or the one that a receiver decodes, rounded around the
    predicted mean, or the median of its channel, with the gradient of y (straight-through, as in
    *High-Fidelity Generative Image Compression*, arXiv 2006.09965, section 3.2). Then the
    hyperprior, too, is decoded from what a receiver has of z.

    Args:
        codec: where training starts; it stays as it is.
        quantization: `noise` or `straight-through`.
        trained: parts that learn: `encoder` (g_a), `hyperprior` (all that models the entropy) and
            `decoder` (g_s).

    Raises:
        CdlError: for an unknown quantization or part; for straight-through with a codec that has a
            context model, whose means depend on what was decoded before; for a variable-rate one or
            one with a `latent_codec`.
    """

    def __init__(self, codec: Codec, quantization: str, trained: Sequence[str]):
        super().__init__()
        if quantization not in QUANTIZATIONS:
            raise CdlError(f"quantization {quantization!r} is not one of {QUANTIZATIONS}")
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
            parameter.requires_grad_(part_of(name) in trained)

    def forward(self, images: torch.Tensor) -> CodedImages:
        """Code N x 3 x H x W images, RGB in [0, 1], each padded as Codec.encode pads it."""
        seen: dict[str, Any] = {"quantized": []}
        images = images.float()
        with self._recording(seen), torch.autocast(images.device.type, enabled=False):
            # In float32 whatever the trainer says, as every codec here runs.
            coded = self.network.train()(pad_for_coding(images))
        height, width = images.shape[2:]
        rows, columns = latent_grid((height, width))
        y_hat, scales_hat = seen["y_hat"], seen.get("scales_hat")
        if scales_hat is not None:
            missing = y_hat.shape[1] - scales_hat.shape[1]  # global channels
            scales_hat = F.pad(scales_hat, (0, 0, 0, 0, 0, missing))[..., :rows, :columns]
        x_hat = coded["x_hat"][..., :height, :width]
        pixels = len(images) * height * width
        return CodedImages(
            y_hat=y_hat[..., :rows, :columns],
            scales_hat=scales_hat,
            x_hat=x_hat,
            bits_per_pixel=_bits(coded["likelihoods"].values()) / pixels,
            quantized_bits_per_pixel=_bits(seen["quantized"]) / pixels,
            distortion=255**2 * (x_hat - images).square().mean(),
        )

    @contextmanager
    def _recording(self, seen: dict[str, Any]) -> Iterator[None]:
        """Fill `seen` while the network runs, and quantize as this codec does."""
        from compressai.entropy_models import EntropyModel

        network = self.network
        handles = [
            network.g_s.register_forward_pre_hook(
                lambda _, inputs: seen.__setitem__("y_hat", inputs[0])
            )
        ]
        if hasattr(network, "gaussian_conditional"):
            record = network.gaussian_conditional.register_forward_pre_hook(
                lambda _, inputs: seen.__setitem__("scales_hat", inputs[1])
            )
            handles.append(record)

        @torch.no_grad()
        def quantize(model: EntropyModel, inputs, keywords, output) -> None:
            _, likelihoods = model.forward(*inputs, **(keywords | {"training": False}))
            seen["quantized"].append(likelihoods)

        for module in network.children():
            if isinstance(module, EntropyModel):
                handles.append(module.register_forward_hook(quantize, with_kwargs=True))
                if self._straight:
                    handles.append(module.register_forward_hook(self._round, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _round(self, model: nn.Module, inputs, keywords, output):
        """In the place of an entropy model's noise: what a receiver has, its gradient that of y."""
        y, center = inputs[0], 0
        if hasattr(model, "quantiles"):
            center = model.quantiles[:, :, 1:2]
        elif self.start.quantization == "dequantized":
            center = keywords.get("means", 0)
        rounded = torch.round(y - center) + center
        return rounded.detach() + (y - y.detach()), output[1]

    def quantile_loss(self) -> torch.Tensor:
        """What fits the ranges of the entropy tables to the hyperprior; moves nothing else. A mean
        over the quantiles, where CompressAI has the sum, which would hide all other losses."""
        named = self.network.named_parameters()
        count = sum(each.numel() for name, each in named if name.endswith(".quantiles"))
        return self.network.aux_loss() / count

    def as_codec(self) -> Codec:
        """A frozen codec of the present weights, its entropy tables built anew."""
        network = copy.deepcopy(self.network).eval()
        with torch.no_grad():
            network.update(force=True, update_quantiles=self._learns_entropy)
        start = self.start
        return Codec(network, start.name, start.quality, start.metric, start.quantization)

    def save(self, path: str | Path) -> CodecIdentity:
        """Write the present weights as a codec's weights file; the identity that they give."""
        codec = self.as_codec()
        details = {"name": codec.name, "quality": str(codec.identity.quality)}
        save_weights(Path(path), codec.network, details)
        return codec.identity


def _bits(likelihoods: Iterable[torch.Tensor]) -> torch.Tensor:
    return sum(-torch.log2(each).sum() for each in likelihoods)


def part_of(parameter: str) -> str:
    """The part of a codec that a parameter of its network belongs to."""
    return {"g_a": "encoder", "g_s": "decoder"}.get(parameter.partition(".")[0], "hyperprior")
