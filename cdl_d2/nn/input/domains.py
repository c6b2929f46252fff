"""Domains of a model's input: what `CodedInput` does differently for latents and for pixels.

Shapes: M latent channels, h x w latent positions of 16 x 16 pixels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.bitstream.layers import read_base
from cdl_d2.codec.bitstream.stream import BASE, Bitstream, BitstreamError
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import STRIDE, CodecIdentity, coded_cells, crop_to_image
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.codec_stamp import CodecStamp
from cdl_d2.nn.input.sample import get_image_size

LATENT, RECONSTRUCTION, IMAGE = "latent", "reconstruction", "image"


class Domain:
    """Input domain of a model; by itself, the original image, which needs no codec.

    Args:
        channel_order: order of a sample's pixels, `BGR` or `RGB`.
        with_scales: the model reads the predicted standard deviations (scales) beside latents.
        with_margin: the model reads the coded positions below and right of the image, too.

    Attributes:
        name: key of the input in samples.
        stride: pixels per position of the input, along each side.
        has_codec: a codec produces the input; the class then has `encode` and `read`.
        has_pixels: the input is pixels in 0..255, which a network reads normalized.
    """

    name: ClassVar[str] = IMAGE
    stride: ClassVar[int] = 1
    has_codec: ClassVar[bool] = False
    has_pixels: ClassVar[bool] = True

    def __init__(self, channel_order: str, with_scales: bool = False, with_margin: bool = False):
        self.channel_order, self.with_scales = channel_order, with_scales
        self.with_margin = with_margin

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the tensors in a sample that the model reads."""
        return (self.name,)

    def swap(self, image: torch.Tensor) -> torch.Tensor:
        """Convert ... x 3 x H x W pixels between RGB and `channel_order`."""
        return image.flip(-3) if self.channel_order == "BGR" else image

    def channels(self, codec: Codec | None) -> int:
        """Return the number of channels of the input."""
        return 3

    def check_codecs(self, codecs: Sequence[Codec]) -> None:
        """Raise CdlError if one model cannot read the output of all these codecs."""

    def stamp(self, network: nn.Module, identities: Sequence[CodecIdentity]) -> None:
        """Record the codecs in a network's state."""

    def picture(self, sample: dict[str, Any], codec: Codec | None) -> torch.Tensor:
        """Return an encoded sample as an image, 3 x H x W in 0..255, in `channel_order`."""
        return sample[self.name]


class ReconstructionDomain(Domain):
    """The reconstructed image x_hat, rounded to whole numbers."""

    name, has_codec = RECONSTRUCTION, True

    def stamp(self, network: nn.Module, identities: Sequence[CodecIdentity]) -> None:
        network.codec_stamp = CodecStamp(*identities, required=False)

    def encode(self, image: torch.Tensor, codec: Codec, with_bits: bool) -> dict[str, Any]:
        """Return the entries that encoding an image, 3 x H x W in 0..255, adds to its sample."""
        pixels = self.swap(image.float() / 255)
        latent = codec.encode(pixels, with_bits=with_bits)
        bits = {"bits": latent.total_bits} if with_bits else {}
        return bits | {self.name: self._to_pixels(codec.decode(latent))}

    def read(
        self, stream: Bitstream, codec: Codec, device: torch.device | str
    ) -> dict[str, torch.Tensor]:
        """Return the entries that decoding a bitstream adds to its sample."""
        if stream.coding == BASE:
            raise BitstreamError("a base layer has some channels only: no image is decoded from it")
        y_hat = codec.read_symbols(stream).y_hat.to(device)
        decoded = codec.reconstruct(y_hat, stream.image_size, stream.padding)
        return {self.name: self._to_pixels(decoded)}

    def _to_pixels(self, x_hat: torch.Tensor) -> torch.Tensor:
        return self.swap(torch.round(x_hat * 255))


class LatentDomain(Domain):
    """The quantized latent y_hat, M x h x w, of the positions that the image covers.

    Those of the margin follow below and on the right, for a model that reads them.
    """

    name, stride, has_codec, has_pixels = LATENT, STRIDE, True, False

    @property
    def keys(self) -> tuple[str, ...]:
        return (LATENT, "scales") if self.with_scales else (LATENT,)

    def channels(self, codec: Codec) -> int:
        return codec.latent_channels

    def check_codecs(self, codecs: Sequence[Codec]) -> None:
        channels = {codec.latent_channels for codec in codecs}
        if len(channels) > 1:
            raise CdlError(
                f"latents of {sorted(channels)} channels for one network: take qualities of the "
                "same width"
            )
        for codec in codecs:
            if self.with_scales and not codec.predicts_scales:
                raise CdlError(
                    f"{codec.name} predicts no scales, which the network reads: take a codec "
                    "with a hyperprior"
                )

    def stamp(self, network: nn.Module, identities: Sequence[CodecIdentity]) -> None:
        if len(identities) > 1:  # with one codec, the networks' own stamps are complete
            for module in network.modules():
                if isinstance(module, CodecStamp):
                    module.commit(*identities)

    def encode(self, image: torch.Tensor, codec: Codec, with_bits: bool) -> dict[str, Any]:
        pixels = self.swap(image.float() / 255)
        latent = codec.encode(pixels, self.with_scales, with_bits)
        area = latent.image_size, latent.padding, self.with_margin
        entries: dict[str, Any] = {LATENT: crop_to_image(latent.y_hat, *area)}
        if with_bits:
            entries["bits"] = latent.total_bits
            entries["channel_bits"], entries["side_bits"] = latent.channel_bits, latent.side_bits
        if self.with_scales:
            entries["scales"] = crop_to_image(latent.scales_hat, *area)
        return entries

    def read(
        self, stream: Bitstream, codec: Codec, device: torch.device | str
    ) -> dict[str, torch.Tensor]:
        entries: dict[str, Any] = {}
        if stream.coding == BASE:
            quantized, entries["channel_mask"] = read_base(codec, codec.identify(stream))
        else:
            quantized = codec.read_symbols(stream)
        area = stream.image_size, stream.padding, self.with_margin
        latent = crop_to_image(quantized.y_hat, *area)
        if "channel_mask" in entries:
            latent = latent * entries["channel_mask"][:, None, None]
        entries[LATENT] = latent.to(device)
        if self.with_scales:
            entries["scales"] = crop_to_image(quantized.scales_hat, *area).to(device)
        return entries

    def picture(self, sample: dict[str, Any], codec: Codec) -> torch.Tensor:
        """Decode a latent, with zeros in the positions outside of the image."""
        latent, size = sample[LATENT].detach(), get_image_size(sample, self.with_margin)
        rows, columns = coded_cells(size)
        y_hat = F.pad(latent, (0, columns - latent.shape[2], 0, rows - latent.shape[1]))
        return self.swap(torch.round(codec.reconstruct(y_hat, size) * 255).byte())


DOMAINS: dict[str, type[Domain]] = {
    domain.name: domain for domain in (LatentDomain, ReconstructionDomain, Domain)
}


def build_domain(
    name: str,
    codecs: Sequence[Codec],
    channel_order: str,
    with_scales: bool = False,
    with_margin: bool = False,
) -> Domain:
    """Build a domain; raise CdlError if there is none of this name, or codecs do not fit it."""
    check_domain(name, bool(codecs))
    domain = DOMAINS[name](channel_order, with_scales, with_margin)
    domain.check_codecs(codecs)
    return domain


def check_domain(name: str, with_codec: bool) -> None:
    """Raise CdlError for an unknown domain, or one that does not fit having a codec or none."""
    if name not in DOMAINS:
        raise CdlError(f"domain {name!r} is not one of {', '.join(DOMAINS)}")
    if with_codec != DOMAINS[name].has_codec:
        raise CdlError(f"domain {name!r} {'has no' if with_codec else 'needs a'} codec")
