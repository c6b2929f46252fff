"""A codec that goes on learning, together with a network that reads its latents."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import CODING_MULTIPLE, CodecIdentity
from cdl_d2.codec.weights_file import save_weights
from cdl_d2.errors import CdlError

QUANTIZATIONS = ("noise", "straight-through")
PARTS = ("encoder", "hyperprior", "decoder")


@dataclass
class CodedImages:
    """What a trainable codec makes of N images; everything carries gradients.

    Attributes:
        y_hat: N x M x h x w, quantized in a way that lets gradients pass.
        scales_hat: as y_hat, the deviations that the entropy model predicts; None without.
        bits_per_pixel: scalar, estimated, over all images.
        distortion: scalar, the mean squared error on the 0..255 scale.
    """

    y_hat: torch.Tensor
    scales_hat: torch.Tensor | None
    bits_per_pixel: torch.Tensor
    distortion: torch.Tensor


class TrainableCodec(nn.Module):
    """The network of a codec, parts of it frozen, with gradients through the quantizer.

    `start` is the identity of the codec where training starts.

    Likelihoods are computed with additive noise, as CompressAI trains. The latent that the task
    and the decoder see is the noisy one, or round(y) with the gradient of y.

    Args:
        codec: where training starts; it stays as it is.
        quantization: `noise` or `straight-through`.
        trained: parts that learn: `encoder` (g_a), `hyperprior` (all that models the entropy) and
            `decoder` (g_s).

    Raises:
        CdlError: for an unknown quantization or part; for straight-through with a codec that
            predicts means or has medians, where what is decoded is not round(y).
    """

    def __init__(self, codec: Codec, quantization: str, trained: Sequence[str]):
        super().__init__()
        if quantization not in QUANTIZATIONS:
            raise CdlError(f"quantization {quantization!r} is not one of {QUANTIZATIONS}")
        unknown = set(trained) - set(PARTS)
        if unknown:
            raise CdlError(f"part {min(unknown)!r} of a codec is not one of {PARTS}")
        if quantization == "straight-through" and not codec.name.endswith("bmshj2018-hyperprior"):
            raise CdlError(
                f"straight-through rounding is for bmshj2018-hyperprior; {codec.name} decodes "
                "something else than round(y): take quantization noise"
            )
        self.network = copy.deepcopy(codec.network)
        self.start, self._straight = codec.identity, quantization == "straight-through"
        self._learns_entropy = "hyperprior" in trained
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(part_of(name) in trained)

    def forward(self, images: torch.Tensor) -> CodedImages:
        """Code N x 3 x H x W images, RGB in [0, 1], H and W multiples of 64.

        Raises:
            CdlError: for another size.
        """
        height, width = images.shape[2:]
        if height % CODING_MULTIPLE or width % CODING_MULTIPLE:
            raise CdlError(
                f"images of {height}x{width} pixels: a codec is trained on multiples of "
                f"{CODING_MULTIPLE}"
            )
        seen: dict[str, torch.Tensor] = {}

        def quantize(module, inputs):
            y_hat = inputs[0]
            if self._straight:
                y = seen["y"]
                y_hat = y + (y.round() - y).detach()
            seen["y_hat"] = y_hat
            return (y_hat,)

        network = self.network
        handles = [
            network.g_a.register_forward_hook(lambda _, inputs, y: seen.__setitem__("y", y)),
            network.g_s.register_forward_pre_hook(quantize),
        ]
        if hasattr(network, "gaussian_conditional"):
            conditional = network.gaussian_conditional
            record = conditional.register_forward_pre_hook(
                lambda _, inputs: seen.__setitem__("scales", inputs[1])
            )
            handles.append(record)
        try:
            # In float32 whatever the trainer says, as every codec here runs.
            with torch.autocast(images.device.type, enabled=False):
                coded = network.train()(images.float())
        finally:
            for handle in handles:
                handle.remove()
        bits = sum(-torch.log2(each).sum() for each in coded["likelihoods"].values())
        return CodedImages(
            y_hat=seen["y_hat"],
            scales_hat=seen.get("scales"),
            bits_per_pixel=bits / (len(images) * height * width),
            distortion=255**2 * (coded["x_hat"] - images).square().mean(),
        )

    def quantile_loss(self) -> torch.Tensor:
        """What fits the ranges of the entropy tables to the hyperprior; moves nothing else."""
        return self.network.aux_loss()

    def as_codec(self) -> Codec:
        """A frozen codec of the present weights, its entropy tables built anew."""
        network = copy.deepcopy(self.network).eval()
        with torch.no_grad():
            network.update(force=True, update_quantiles=self._learns_entropy)
        start = self.start
        return Codec(network, start.name, start.quality, start.metric, start.meaning)

    def save(self, path: str | Path) -> CodecIdentity:
        """Write the present weights as a codec's weights file; the identity that they give."""
        codec = self.as_codec()
        details = {"name": codec.name, "quality": str(codec.identity.quality)}
        save_weights(Path(path), codec.network, details)
        return codec.identity


def part_of(parameter: str) -> str:
    """The part of a codec that a parameter of its network belongs to."""
    return {"g_a": "encoder", "g_s": "decoder"}.get(parameter.partition(".")[0], "hyperprior")
