"""Whether a network that a user brings is one that this package can take apart."""

from __future__ import annotations

import torch
from torch import nn

from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import LatentCoder
from cdl_d2.codec.latent import CODING_MULTIPLE, HYPERPRIOR_CELLS, STRIDE
from cdl_d2.errors import CdlError

SIZE = CODING_MULTIPLE, 2 * CODING_MULTIPLE  # of the image that is tried
MOST_FLIPPED = 0.01  # of the symbols: rounding can fall otherwise in float32 than in float64


def check_network(
    network: nn.Module, channels: int, coder: type[LatentCoder], quality: int
) -> None:
    """Try a network, in eval mode, on an image of noise.

    It must be built as CompressAI's image models are: `g_a` to a latent y at stride 16 and `g_s`
    back; `entropy_bottleneck`, of y or, with a hyperprior `h_a` and `h_s`, of z at stride 64; then
    also `gaussian_conditional`, and with a context model `context_prediction` and
    `entropy_parameters`; or instead of all these a `latent_codec`, see LatentCodecCoder. `forward`
    must do with them what those models do.

    Args:
        channels: M, that y must have.

    Raises:
        CdlError: for what is missing, or of another size, or done otherwise.
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
                "models are, of g_a, g_s, entropy_bottleneck and, with a hyperprior, h_a, h_s and "
                "gaussian_conditional"
            )


def _run(
    network: nn.Module, part: str, given: torch.Tensor, expected: tuple[int | None, ...]
) -> torch.Tensor:
    try:
        made = getattr(network, part)(given)
    except RuntimeError as error:
        raise CdlError(f"{part} does not take {tuple(given.shape[1:])}: {error}") from error
    found = tuple(made.shape[1:])
    if found[1:] != expected[1:] or expected[0] not in (None, found[0]):
        size = tuple("any" if each is None else each for each in expected)
        raise CdlError(
            f"{part} makes {found} of {tuple(given.shape[1:])}, not {size}: a latent has a stride "
            f"of {STRIDE} pixels and as many channels as were said, a hyperprior's a stride of "
            f"{STRIDE * HYPERPRIOR_CELLS}"
        )
    return made


def _check_forward(
    network: nn.Module, coder: LatentCoder, image: torch.Tensor, y: torch.Tensor
) -> None:
    """That `forward` decodes the latent that is decoded here, by `g_s` alone."""
    seen = []
    handle = network.g_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        x_hat = network(image, **coder.forward_arguments)["x_hat"]
    finally:
        handle.remove()
    ours = coder.quantize_as_forward(y[0])
    for theirs in seen:
        flipped = ((theirs[0] - ours.y_hat).abs() > 1e-3).float().mean()
        if flipped <= MOST_FLIPPED and torch.allclose(network.g_s(theirs), x_hat, atol=1e-4):
            return
    raise CdlError(
        f"forward of a {type(network).__name__} decodes another latent, or otherwise, than its "
        "parts do when put together as in CompressAI's image models: it cannot be used"
    )


def _grid(stride: int) -> tuple[int, int]:
    return SIZE[0] // stride, SIZE[1] // stride
