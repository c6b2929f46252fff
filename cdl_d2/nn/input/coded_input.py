"""What a network is shown of an image: its latent, the decoded image, or the original one.

Items of a batch are dicts; what a network reads stands in them under the name of its domain.
Shapes: M latent channels, h x w cells of 16 x 16 pixels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.bitstream.layers import read_selected
from cdl_d2.codec.bitstream.stream import SELECTED, Bitstream, BitstreamError
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import (
    STRIDE,
    CodecIdentity,
    coded_cells,
    crop_to_image,
)
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.batch_item import (
    check_image,
    check_values,
    has_another_image,
    image_checksum,
    image_size_of,
    without_coded,
)
from cdl_d2.nn.input.codec_stamp import CodecStamp, in_words

DOMAINS = ("latent", "reconstruction", "image")


@dataclass(frozen=True, eq=False)
class CodedInput:
    """Makes items, from images or bitstreams, and batches of what a network reads in them.

    The codec is held here, outside the network's parameters and state.

    Attributes:
        domain: `latent`, `reconstruction` or `image`.
        codec: None for domain `image`.
        channel_order: of the pixels in items, `BGR` or `RGB`.
        with_scales: whether the network reads the scales of the entropy model beside the latent.
        source: who encodes for training: the `model`, or whoever makes the items, a `mapper` that
            encodes or one that reads a `store`.
        others: the codec at the other qualities that the network reads, if it reads several;
            `codec` is the one that encodes in evaluation.

    Raises:
        CdlError: for an unknown domain, or one that does not fit the codec; for latents of several
            numbers of channels; for scales of a codec that predicts none.
    """

    domain: str
    codec: Codec | None = None
    channel_order: str = "RGB"
    with_scales: bool = False
    source: str = "model"
    others: Sequence[Codec] = ()  # not a tuple, whose types LazyConfigs look into

    def __post_init__(self) -> None:
        # By codec and device. No field: LazyConfigs look into the types and values of fields.
        object.__setattr__(self, "_copies", {})
        check_domain(self.domain, self.codec is not None)
        channels = {each.latent_channels for each in self.codecs}
        if self.domain == "latent" and len(channels) > 1:
            raise CdlError(
                f"latents of {sorted(channels)} channels for one network: take qualities of the "
                "same width"
            )
        if self.domain == "latent" and self.with_scales:
            for codec in self.codecs:
                if not codec.predicts_scales:
                    raise CdlError(
                        f"{codec.name} predicts no scales, which the network reads: take a codec "
                        "with a hyperprior"
                    )

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the copies on other devices, which a process makes anew."""
        return vars(self) | {"_copies": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> CodedInput:
        """Itself: copies of a model share its codec, which is frozen."""
        return self

    @property
    def stride(self) -> int:
        """Pixels a side of a cell of what the network reads: 16 for latents, otherwise 1."""
        return STRIDE if self.domain == "latent" else 1

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """All whose latents or reconstructions the network reads; none for domain `image`."""
        return (self.codec, *self.others) if self.codec else ()

    @property
    def identities(self) -> tuple[CodecIdentity, ...]:
        """Of the codecs."""
        return tuple(each.identity for each in self.codecs)

    def codec_of(self, identity: CodecIdentity) -> Codec | None:
        """Return the codec of an identity, whose weights may be unknown; or `codec` if there is
        none, which then refuses what another one made."""
        fitting = (codec for codec in self.codecs if codec.identity.fits(identity))
        return next(fitting, self.codec)

    def stamp(self, network: nn.Module) -> None:
        """Name all codecs in the network's state: a network on latents has stamps where it reads
        them, one on decoded images gets its `codec_stamp` here."""
        if self.domain == "reconstruction":
            network.codec_stamp = CodecStamp(*self.identities, required=False)
        elif self.others:
            for module in network.modules():
                if isinstance(module, CodecStamp):
                    module.commit(*self.identities)

    def on_cpu(self) -> CodedInput:
        """Return the same input with its codecs on the CPU."""
        codec = self.codec and self.codec.on("cpu")
        return replace(self, codec=codec, others=[other.on("cpu") for other in self.others])

    def codec_on(self, device: torch.device | str, codec: Codec | None = None) -> Codec:
        """Return a codec on a device: itself, or its copy there, which is kept.

        Args:
            device: where the pixels or latents are.
            codec: one of `codecs`; None for `codec`.

        Raises:
            CdlError: for domain `image`, or if there is no such device.
        """
        codec = codec or self.codec
        if codec is None:
            raise CdlError("a network on original images has no codec, and reads no bitstreams")
        key = codec, torch.device(device)
        if key not in self._copies:
            self._copies[key] = codec.on(device)
        return self._copies[key]

    def swap(self, image: torch.Tensor) -> torch.Tensor:
        """RGB <-> `channel_order`, of ... x 3 x H x W."""
        return image.flip(-3) if self.channel_order == "BGR" else image

    def encode(
        self,
        item: dict[str, Any],
        device: torch.device | str = "cpu",
        with_bits: bool = True,
        training: bool = False,
    ) -> dict[str, Any]:
        """An item with its latent, or reconstruction, beside its image.

        Args:
            item: has `image`, 3 x H x W in 0..255, or what the domain needs already.
            device: to encode on.
            with_bits: whether to estimate sizes, which costs time.
            training: whether labels go with the item: then it stays as it was encoded, whatever
                became of its image; and one of all codecs is drawn, by PyTorch's numbers. Otherwise
                an item whose image was resized or flipped since is encoded anew.

        Returns:
            a copy of `item` with
            latent: M x ceil(H/16) x ceil(W/16), for domain `latent`;
            channel_bits and side_bits: of each channel, M, and of the hyperprior, with the latent;
            scales: as latent, for a network that reads them;
            reconstruction: 3 x H x W in 0..255 whole numbers, channels as in `image`, for domain
            `reconstruction`;
            codec_identity: the CodecIdentity of either;
            image_size: (H, W) in pixels;
            encoded_image: the checksum of the image, see image_checksum;
            bits: the estimated size of the coded image.
            An item that has what its domain needs is returned as it is, unless it is not for
            training, and its image is of another size than image_size, or another checksum than
            encoded_image.

        Raises:
            CdlError: for an image that check_image refuses, or that is smaller than a latent cell;
                if there is nothing to encode, or the latent comes from another codec.
        """
        if "image" in item:
            check_image(item["image"])
        if self.codec is None:
            return item
        if not training and self.domain in item and has_another_image(item):
            item = without_coded(item)
        if self.domain in item:
            theirs = item.get("codec_identity")
            if theirs is not None and theirs not in self.identities:
                raise CdlError(
                    f"the {self.domain} was made by {theirs}; this model reads "
                    f"{in_words(self.identities)}"
                )
            return item
        if "image" not in item:
            raise CdlError(f"a batch item has neither {self.domain!r} nor 'image': {sorted(item)}")
        codec = self.codec
        if training and self.others:
            codec = self.codecs[int(torch.randint(len(self.codecs), ()))]
        return item | self._encode_image(item["image"], self.codec_on(device, codec), with_bits)

    def _encode_image(
        self, image: torch.Tensor, codec: Codec, with_bits: bool = True
    ) -> dict[str, Any]:
        """Return what `encode` adds to an item with this image."""
        height, width = image.shape[-2:]
        if max(height, width) < STRIDE:
            raise CdlError(
                f"an image of {width}x{height} pixels is smaller than one latent cell "
                f"({STRIDE}x{STRIDE}): enlarge it, e.g. with INPUT.MIN_SIZE_TEST"
            )
        check_values(image)
        pixels = self.swap(image.to(device_of(codec)).float() / 255)
        latent = codec.encode(pixels, self.with_scales, with_bits)
        made = {
            "codec_identity": codec.identity,
            "image_size": (height, width),
            "encoded_image": image_checksum(image),
        }
        if with_bits:
            made["bits"] = latent.total_bits
        if self.domain == "reconstruction":
            decoded = torch.round(codec.decode(latent) * 255)
            return made | {"reconstruction": self.swap(decoded)}
        made["latent"] = latent.cells
        if with_bits:
            made["channel_bits"], made["side_bits"] = latent.channel_bits, latent.side_bits
        if self.with_scales:
            made["scales"] = latent.crop(latent.scales_hat)
        return made

    def encode_by_all(
        self, item: dict[str, Any], device: torch.device | str = "cpu"
    ) -> dict[CodecIdentity, torch.Tensor]:
        """Return the latents that all codecs make of an item's `image`, M x h x w."""
        latents = {}
        for codec in self.codecs:
            encoded = self._encode_image(item["image"], self.codec_on(device, codec), False)
            latents[codec.identity] = encoded["latent"]
        return latents

    def require_from_source(self, items: Sequence[dict[str, Any]]) -> None:
        """Raise CdlError if items to train on lack what another than the model should have made:
        latents of a store would be replaced by others, of images, without a word."""
        for item in items:
            if self.codec is not None and self.source != "model" and self.domain not in item:
                raise CdlError(
                    f"INPUT.LATENT_SOURCE is {self.source!r}, but the mapper in use gives items "
                    f"without {self.domain!r}, of {', '.join(sorted(item))}: take that of "
                    "cdl_d2.d2.build_mapper(cfg, True), as `cdl train` and cdl_d2.d2.Trainer do, "
                    "or set INPUT.LATENT_SOURCE model"
                )

    def read(self, stream: Bitstream, device: torch.device | str = "cpu") -> dict[str, Any]:
        """An item of a bitstream, or of the first layer of one.

        Returns:
            what encode gives, without estimates: `bits` is the size of its file, and there are
            no `channel_bits` and `side_bits`;
            height, width: of the image before it was resized for coding, for results in its pixels.
            For a first layer also
            channel_mask: M booleans, the channels that it has; the others are zero.

        Raises:
            CdlError: for domain `image`.
            MisalignedImageError: for domain `latent`, if the image was padded above or to the left
                by a number of pixels that is not a multiple of 16.
            BitstreamError: see Codec.decompress and decompress_selected; for a first layer and
                domain `reconstruction`.
        """
        codec, size = self.codec_on(device, self.codec_of(stream.codec)), stream.image_size
        stream = codec.identify(stream)
        item: dict[str, Any] = {
            "codec_identity": codec.identity,
            "image_size": size,
            "bits": stream.bits,
            "height": stream.result_size[0],
            "width": stream.result_size[1],
        }
        if stream.coding != SELECTED:
            quantized = codec.read_symbols(stream)
        elif self.domain == "reconstruction":
            raise BitstreamError("a first layer has some channels only, which decode to no image")
        else:
            quantized, item["channel_mask"] = read_selected(codec, stream)
        y_hat, padding = quantized.y_hat, stream.padding
        if self.domain == "reconstruction":
            decoded = torch.round(codec.reconstruct(y_hat.to(device), size, padding) * 255)
            return item | {"reconstruction": self.swap(decoded)}
        latent = crop_to_image(y_hat, size, padding)
        if "channel_mask" in item:
            latent = latent * item["channel_mask"][:, None, None]
        item["latent"] = latent.to(device)
        if self.with_scales:
            item["scales"] = crop_to_image(quantized.scales_hat, size, padding).to(device)
        return item

    def picture(self, item: dict[str, Any]) -> torch.Tensor:
        """The image of an encoded item to look at, 3 x H x W in 0..255, channels in
        `channel_order`, on the CPU: `image`, or what `reconstruction` or `latent` say of it. A
        latent is decoded with zeros around its cells, which shows at the edges."""
        if "image" in item or self.domain != "latent":
            return item.get("image", item.get(self.domain)).cpu()
        latent, size = item["latent"].detach(), image_size_of(item)
        rows, columns = coded_cells(size)
        y_hat = F.pad(latent, (0, columns - latent.shape[2], 0, rows - latent.shape[1]))
        decoded = self.codec_on(latent.device).reconstruct(y_hat, size)
        return self.swap(torch.round(decoded * 255).byte()).cpu()

    def batch(
        self,
        items: Sequence[dict[str, Any]],
        device: torch.device | str,
        multiple: int,
        normalize: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """What the network reads, padded with zeros on the right and below.

        Args:
            items: encoded ones.
            multiple: pixels; both padded sides are multiples of it.
            normalize: of pixels, 3 x H x W in 0..255; latents enter as they are.

        Returns:
            N x C x H'/stride x W'/stride, and of each image what image_size_of says.
        """
        inputs = [item[self.domain].to(device) for item in items]
        if self.domain != "latent":
            inputs = [normalize(pixels) for pixels in inputs]
        cells = max(multiple // self.stride, 1)
        sides = (max(each) for each in zip(*(x.shape[1:] for x in inputs), strict=True))
        height, width = (-(-side // cells) * cells for side in sides)
        padded = [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in inputs]
        return torch.stack(padded), [image_size_of(item) for item in items]

    def padded_size(self, batch: torch.Tensor) -> tuple[int, int]:
        """(H', W') in pixels of a padded batch."""
        height, width = (side * self.stride for side in batch.shape[-2:])
        return height, width


def check_domain(domain: str, with_codec: bool) -> None:
    """Raise CdlError for an unknown domain, or one that does not fit having a codec or none."""
    if domain not in DOMAINS:
        raise CdlError(f"domain {domain!r} is not one of {', '.join(DOMAINS)}")
    if with_codec != (domain != "image"):
        raise CdlError(f"domain {domain!r} {'has no' if with_codec else 'needs a'} codec")
