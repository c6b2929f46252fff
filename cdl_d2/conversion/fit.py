"""Fit of a LatentNetwork's bridge to the RGB network's first convolution, or to its stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.linear_bridge import find_first_convolution
from cdl_d2.nn.bridge.stage import run_to


@torch.no_grad()
def fit_to_images(
    student: LatentNetwork, teacher: ImageNetwork, images: Iterable[torch.Tensor], entry: str = ""
) -> float:
    """Fit the bridge in closed form (least squares).

    Args:
        student: its bridge is fitted.
        teacher: the RGB network.
        images: 3 x H x W, uint8, resized and cropped already.
        entry: name of the teacher's module that the student's bridge replaces; empty for the first
            convolution.

    Returns:
        the share of the variance of what it replaces that the bridge explains, at most 1.

    Raises:
        CdlError: if the network does not convolve the pixels of every image, or for too few images.
    """
    _, convolution = find_first_convolution(teacher.network)
    stage = teacher.network.get_submodule(entry)

    def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for image in images:
            run = partial(teacher.run, [image])
            pixels, _ = run_to(convolution, run)
            height, width = image.shape[1:]
            if pixels.shape[2] < height or pixels.shape[3] < width:
                raise CdlError(
                    f"the network resizes images of {(height, width)} pixels to "
                    f"{tuple(pixels.shape[2:])}: give it images of the size that it needs"
                )
            y_hat = student.encode_pixels(image).cells_and_margin
            if isinstance(student.bridge, Bridge):
                rows, columns = student.bridge.output_size(height, width)
                yield y_hat[None], run_to(stage, run)[1][:, :, :rows, :columns]
            else:
                yield y_hat[None], pixels[:, :, :height, :width]

    return student.bridge.fit(pairs())
