"""The whole graph of a codec's encoder: from images to their latents.

Shapes: N images of H x W pixels, padded to H' x W', multiples of 64; M latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.codec.latent import CODING_MULTIPLE, pad_for_coding
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import Axis
from cdl_d2.export.whole_graphs import Tensors, Value, WholeGraph

TOLERANCE = 1e-3  # of a quantized value; y may differ by this share of its largest value
MOST_DIFFERENT = 1e-3  # share of values that fall on the other side of a rounding step
MEANINGS = {
    "y_hat": "latent of the padded image, as models take it",
    "y": "latent of the padded image before quantization, which goes position by position",
    "z_hat": "quantized hyperprior",
}
SIZES = ((120, 150), (200, 90))  # (H, W) of the images that are compared


def encoder_graph(codec: Codec) -> WholeGraph:
    """Return the graph `encoder`: g_a and, with a hyperprior, h_a and the quantized z.

    It also gives y_hat, unless that is quantized step by step, in which case it gives y. Means are
    predicted in float32 and not, as in bitstreams, in float64: a value of y that is almost midway
    between two steps may be rounded to the other one.

    Raises:
        CdlError: for an entropy model whose latents are not quantized by one function of y.
    """
    module = _Encoder(codec.on("cpu"))
    with torch.no_grad():
        outputs = module.named_outputs(torch.zeros(1, 3, CODING_MULTIPLE, CODING_MULTIPLE))
    image = Value("image", (Axis("n"), 3, Axis("height"), Axis("width")), "RGB in 0..1, any size")
    values = tuple(
        Value(
            name,
            (Axis("n"), tensor.shape[1], Axis(f"{name[0]}_height"), Axis(f"{name[0]}_width")),
            f"{MEANINGS[name]}, {CODING_MULTIPLE // tensor.shape[2]} pixels per position",
        )
        for name, tensor in outputs.items()
    )
    module.names = tuple(outputs)
    return WholeGraph("encoder", module.eval(), (image,), values, _examples, _compare)


class _Encoder(nn.Module):
    """Encoder of images, N x 3 x H x W in 0..1."""

    def __init__(self, codec: Codec):
        super().__init__()
        self.network, self.coder = codec.network, codec.coder
        self.is_rounded = codec.identity.quantization == "rounded"
        self.names: tuple[str, ...] = ()

    def named_outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the encoder's outputs by name."""
        y = self.network.g_a(pad_for_coding(images))
        return self.coder.quantize_batch(y, self.is_rounded)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.named_outputs(images)
        return tuple(outputs[name] for name in self.names)


def _examples() -> list[Tensors]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(1 + i, 3, *size, generator=generator),) for i, size in enumerate(SIZES)]


def _compare(expected: Sequence[Tensors], results: Sequence[Tensors]) -> str:
    """Compare latents; raise CdlError if more than a few values differ."""
    shares = []
    for pairs in zip(expected, results, strict=True):
        for latent, output in zip(*pairs, strict=True):
            if latent.shape != output.shape:
                raise CdlError(
                    f"encoder, exported, returns {tuple(output.shape)}, the codec "
                    f"{tuple(latent.shape)}"
                )
            limit = TOLERANCE * max(1.0, float(latent.abs().max()))
            shares.append(float(((latent - output).abs() > limit).float().mean()))
    if max(shares) > MOST_DIFFERENT:
        raise CdlError(
            f"encoder, exported, differs from the codec in {max(shares):.1%} of a latent"
        )
    return f"differs in {max(shares):.2%} of the latents' values at most"
