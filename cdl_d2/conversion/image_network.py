"""Networks of any library on images: as they are, and on images that a codec has decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cdl_d2.codec import Codec, Latent
from cdl_d2.conversion.losses import named_tensors
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError


class ImageNetwork(nn.Module):
    """An RGB network that runs on images of H x W pixels, 3 x H x W, uint8.

    Args:
        network: copied, in float32 and eval mode and without gradients; takes N x 3 x H x W
            normalized pixels, torchvision's detectors a list of images.
        preprocessing: resizing, cropping and normalization of images.

    Attributes:
        network: the copy; that in an nn.DataParallel or of torch.compile is not wrapped.
        reads_list: the network takes a list of images, which may differ in size.

    Raises:
        CdlError: if the network is no nn.Module, a ScriptModule, or cannot be copied.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        network = getattr(network, "_orig_mod", network)  # of torch.compile
        if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
            raise CdlError(f"a {type(network).__name__} is no network: expected a plain nn.Module")
        try:
            network = copy.deepcopy(network)
        except (RuntimeError, TypeError) as error:
            raise CdlError(f"{type(network).__name__} cannot be copied: {error}") from error
        self.network = network.float().eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.reads_list = _skip_preprocessing(self.network)

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

    @torch.no_grad()
    def check_image(self, image: torch.Tensor) -> None:
        """Raise CdlError if the network does not run on an image, or returns NaN."""
        name = type(self.network).__name__
        try:
            output = self.run([image])
        except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            height, width = image.shape[1:]
            raise CdlError(
                f"{name} does not run on an image of {height} x {width} pixels: {error}: give the "
                "preprocessing with the size that it needs"
            ) from error
        if any(values.isnan().any() for _, values in named_tensors(output)):
            raise CdlError(f"{name} returns NaN for an image: are its weights trained?")


class DecodedNetwork(ImageNetwork):
    """An RGB network on images that a codec has encoded and decoded.

    Args:
        network: copied.
        codec: whose reconstructions the network reads.
        preprocessing: of images, before they are encoded.
    """

    def __init__(self, network: nn.Module, codec: Codec, preprocessing: Preprocessing):
        super().__init__(network, preprocessing)
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


def _skip_preprocessing(network: nn.Module) -> bool:
    """Let a detector of torchvision take images that are resized and normalized already.

    Returns:
        True if the network is one, which takes a list of images.
    """
    transform = getattr(network, "transform", None)
    if not hasattr(transform, "image_mean"):
        return False
    transform.resize = _keep_size
    transform.image_mean, transform.image_std = [0.0] * 3, [1.0] * 3
    return True


def _keep_size(image: torch.Tensor, target: Any = None) -> tuple[torch.Tensor, Any]:
    return image, target


def check_one_size(network: nn.Module, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise CdlError if the images of a batch, of (H, W) pixels, differ in size."""
    if len(set(sizes)) > 1:
        raise CdlError(
            f"a batch has images of several sizes, {sorted(set(sizes))}: {type(network).__name__} "
            "takes one size"
        )
