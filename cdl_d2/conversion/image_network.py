"""Networks of any library on images: as they are, and on images that a codec has decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cdl_d2.codec import Codec, Latent
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError


class ImageNetwork(nn.Module):
    """An RGB network that runs on images of H x W pixels, 3 x H x W, uint8.

    Args:
        network: takes N x 3 x H x W normalized pixels; torchvision's detectors a list of images.
        preprocessing: resizing, cropping and normalization of images.

    Attributes:
        reads_list: the network takes a list of images, which may differ in size.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.network, self.preprocessing = network.eval(), preprocessing
        self.reads_list = skip_preprocessing(network)

    def train(self, mode: bool = True) -> ImageNetwork:
        """Stay in eval mode: normalizations keep their statistics, dropout is off."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return device_of(self)

    def run(self, images: Sequence[torch.Tensor]) -> Any:
        """Return the network's output for images that are resized and cropped already.

        Args:
            images: 3 x H x W, uint8; of one size unless the network takes a list.
        """
        pixels = [self.preprocessing.normalize(image.to(self.device)) for image in images]
        if self.reads_list:
            return self.network(pixels)
        check_one_size(self.network, [tuple(image.shape[1:]) for image in images])
        return self.network(torch.stack(pixels))


class DecodedNetwork(ImageNetwork):
    """An RGB network on images that a codec has encoded and decoded.

    Args:
        network: copied.
        codec: whose reconstructions the network reads.
        preprocessing: of images, before they are encoded.
    """

    def __init__(self, network: nn.Module, codec: Codec, preprocessing: Preprocessing):
        super().__init__(copy.deepcopy(network), preprocessing)
        self._codec = [codec]  # a list: no submodule

    def forward(self, latents: Sequence[Latent]) -> Any:
        """Return the network's output for the reconstructions of latents."""
        codec = self._codec[0].on(self.device)
        return super().run([torch.round(codec.decode(latent) * 255).byte() for latent in latents])

    def run(self, images: Sequence[torch.Tensor]) -> Any:
        """Return the network's output for the reconstructions of images; as ImageNetwork.run."""
        codec = self._codec[0].on(self.device)
        pixels = [image.to(self.device).float() / 255 for image in images]
        return self([codec.encode(image, with_bits=False) for image in pixels])


def skip_preprocessing(network: nn.Module) -> bool:
    """Let a detector of torchvision take images that are resized and normalized already.

    Returns:
        True if the network is one, which takes a list of images.
    """
    transform = getattr(network, "transform", None)
    if not hasattr(transform, "image_mean"):
        return False
    transform._skip_resize = True
    transform.image_mean, transform.image_std = [0.0] * 3, [1.0] * 3
    return True


def check_one_size(network: nn.Module, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise CdlError if the images of a batch, of (H, W) pixels, differ in size."""
    if len(set(sizes)) > 1:
        raise CdlError(
            f"a batch has images of several sizes, {sorted(set(sizes))}: {type(network).__name__} "
            "takes one size"
        )
