"""Check that a user's network is built as CompressAI's image models are."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.latent import CODING_MULTIPLE, HYPERPRIOR_CELLS, STRIDE
from cdl_d2.errors import CdlError

SIZE = CODING_MULTIPLE, 2 * CODING_MULTIPLE  # of the test image
MAX_DIFFERENT_SHARE = 0.01  # of the symbols, which float32 and float64 can round differently


def check_network(
    network: nn.Module, channels: int, coder: type[LatentCoder], quality: int
) -> None:
    """Run a network, in eval mode, on an image of noise, and compare it with its parts.

    It must have `g_a`, to a latent y at stride 16, and `g_s` back; an `entropy_bottleneck` of y or,
    with a hyperprior (`h_a`, `h_s` and `gaussian_conditional`), of z at stride 64; with a context
    model also `context_prediction` and `entropy_parameters`. Instead of these entropy models it can
    have a `latent_codec`: a hyperprior with a checkerboard or groups of channels. `forward` must
    combine the parts as CompressAI's models do.

    Args:
        network: network to check.
        channels: expected channels M of y.
        coder: LatentCoder of the entropy model.
        quality: rate of a variable-rate network.

    Raises:
        CdlError: if a part is missing or has another size, or if `forward` differs.
    """
    _check_parts(network, coder)
    device = next(network.parameters()).device
    noise = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    with exact_arithmetic(device):
        y = _run(network, "g_a", noise, (channels, *_grid(STRIDE)))
        _run(network, "g_s", y, (3, *SIZE))
        if "h_a" in coder.parts:
            side = len(network.entropy_bottleneck.quantiles)
            z = _run(network, "h_a", y, (side, *_grid(STRIDE * HYPERPRIOR_CELLS)))
            _run(network, "h_s", z, (None, *_grid(STRIDE)))
        _check_forward(network, coder(network, quality), noise, y)


def _check_parts(network: nn.Module, coder: type[LatentCoder]) -> None:
    for part in ("g_a", "g_s", "update", *coder.parts):
        if not hasattr(network, part):
            raise CdlError(
                f"a {type(network).__name__} has no {part}: it must be built as CompressAI's image "
                "models are, with g_a, g_s, entropy_bottleneck and, for a hyperprior, h_a, h_s and "
                "gaussian_conditional"
            )


def _run(
    network: nn.Module, part: str, inputs: torch.Tensor, expected: tuple[int | None, ...]
) -> torch.Tensor:
    """Return the output of a part, whose expected shape has None for any number of channels."""
    try:
        output = getattr(network, part)(inputs)
    except RuntimeError as error:
        raise CdlError(f"{part} does not take {tuple(inputs.shape[1:])}: {error}") from error
    shape = tuple(output.shape[1:])
    if shape[1:] != expected[1:] or expected[0] not in (None, shape[0]):
        expected = tuple("any" if side is None else side for side in expected)
        raise CdlError(
            f"{part} maps {tuple(inputs.shape[1:])} to {shape}, not {expected}: y has a stride of "
            f"{STRIDE} pixels and the given number of channels, z a stride of "
            f"{STRIDE * HYPERPRIOR_CELLS}"
        )
    return output


def _check_forward(
    network: nn.Module, coder: LatentCoder, image: torch.Tensor, y: torch.Tensor
) -> None:
    """Raise CdlError unless `forward` decodes the coder's latent, by `g_s` alone."""
    latents = []
    with network.g_s.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0])):
        x_hat = network(image, **coder.forward_arguments)["x_hat"]
    expected = coder.quantize_as_forward(y[0]).y_hat
    for y_hat in latents:
        share = ((y_hat[0] - expected).abs() > 1e-3).float().mean()
        if share <= MAX_DIFFERENT_SHARE and torch.allclose(network.g_s(y_hat), x_hat, atol=1e-4):
            return
    raise CdlError(
        f"forward of a {type(network).__name__} gives another result than its parts do when "
        "combined as in CompressAI's image models: it cannot be used"
    )


def _grid(stride: int) -> tuple[int, int]:
    return SIZE[0] // stride, SIZE[1] // stride
