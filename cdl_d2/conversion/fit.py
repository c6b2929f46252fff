"""Fit of a LatentNetwork's bridge to what the RGB network's first convolution reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.latent import STRIDE
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.linear_bridge import find_first_convolution


class _InputRead(Exception):
    """Ends a forward pass once the input of the first convolution is known."""


@torch.no_grad()
def fit_to_images(
    student: LatentNetwork, teacher: ImageNetwork, images: Iterable[torch.Tensor]
) -> float:
    """Fit the bridge in closed form (least squares).

    Args:
        student: its bridge is fitted.
        teacher: the RGB network.
        images: 3 x H x W, uint8, resized and cropped already.

    Returns:
        the share of the first convolution's variance that the bridge explains, at most 1.

    Raises:
        CdlError: if the network does not convolve the pixels of every image, or for too few images.
    """
    _, convolution = find_first_convolution(teacher.network)

    def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for image in images:
            pixels = _convolution_input(teacher, convolution, image)
            y_hat = student.encode_pixels(image).cells
            grid = [-(-side // STRIDE) for side in pixels.shape[2:]]
            rows, columns = (n - side for n, side in zip(grid, y_hat.shape[1:], strict=True))
            if min(rows, columns) < 0:
                raise CdlError(
                    f"the network resizes images of {tuple(image.shape[1:])} pixels to "
                    f"{tuple(pixels.shape[2:])}: give it images of the size that it needs"
                )
            y_hat = F.pad(y_hat, (0, columns, 0, rows))
            padding = (0, STRIDE * grid[1] - pixels.shape[3], 0, STRIDE * grid[0] - pixels.shape[2])
            yield y_hat[None], F.pad(pixels, padding)

    return student.bridge.fit(pairs())


def _convolution_input(
    teacher: ImageNetwork, convolution: nn.Module, image: torch.Tensor
) -> torch.Tensor:
    """Return what the first convolution reads of an image, 1 x 3 x H' x W'."""
    inputs: list[torch.Tensor] = []

    def stop(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        inputs.append(arguments[0])
        raise _InputRead

    handle = convolution.register_forward_pre_hook(stop)
    try:
        teacher.run([image])
    except _InputRead:
        return inputs[0]
    finally:
        handle.remove()
    raise CdlError("the network does not run its convolution of 3 channels on an image")
