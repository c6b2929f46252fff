"""Model inputs: latents, reconstructions or pixels, from images and bitstreams, in batches.

Shapes: M latent channels, h x w latent positions of 16 x 16 pixels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import CodecIdentity, latent_grid
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.codec_stamp import format_identities
from cdl_d2.nn.input.domains import build_domain
from cdl_d2.nn.input.sample import (
    check_encodable,
    check_image,
    compute_crc32,
    drop_encoding,
    get_image_size,
    is_image_changed,
)

# Latent positions beyond an image that a bridge's features of the image depend on, at most.
MARGIN = 2


@dataclass(frozen=True, eq=False)
class CodedInput:
    """Input of a model: its domain, and the codec, which is no part of the network's state.

    Samples are dicts, in which the domain's name is the key of what the network reads.

    Attributes:
        domain: `latent`, `reconstruction` or `image`, a key of DOMAINS.
        codec: None for domain `image`.
        channel_order: order of the pixels in samples, `BGR` or `RGB`.
        with_scales: the network reads the predicted standard deviations (scales) beside latents.
        source: where inputs come from in training: the `model` encodes, a `mapper`, or a `store`.
        others: the codec at further qualities that the network reads; evaluation uses `codec`.
        with_margin: the network reads the coded positions below and right of the image, too.
        margin: rows and columns that a batch of latents has for them, below and on the right.
        stride: pixels per position of the network's input, along each side: 16 for latents, else 1.
        has_pixels: the network reads normalized pixels.
        codecs: all codecs whose output the network reads; none for domain `image`.
        identities: identities of the codecs.
    """

    domain: str
    codec: Codec | None = None
    channel_order: str = "RGB"
    with_scales: bool = False
    source: str = "model"
    others: Sequence[Codec] = ()  # not a tuple, whose types LazyConfigs look into
    with_margin: bool = False

    def __post_init__(self) -> None:
        codecs = (self.codec, *self.others) if self.codec else ()
        identities = tuple(codec.identity for codec in codecs)
        reads = self.with_scales, self.with_margin
        domain = build_domain(self.domain, codecs, self.channel_order, *reads)
        # No fields: LazyConfigs look into the types and values of fields.
        vars(self).update(_domain=domain, _copies={})  # copies by codec and device
        vars(self).update(stride=domain.stride, has_pixels=domain.has_pixels)
        vars(self).update(margin=MARGIN if self.with_margin and not domain.has_pixels else 0)
        vars(self).update(codecs=codecs, identities=identities)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without copies on other devices, which a process makes anew."""
        return vars(self) | {"_copies": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> CodedInput:
        """Return itself: copies of a model share its codec, which is frozen."""
        return self

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return self._domain.channels(self.codec)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the tensors in a sample that the network reads."""
        return self._domain.keys

    def find_codec(self, identity: CodecIdentity) -> Codec | None:
        """Return the codec with an identity, whose weights may be unknown, or else `codec`."""
        if not self.others:
            return self.codec
        return next((c for c in self.codecs if c.identity.fits(identity)), self.codec)

    def stamp(self, network: nn.Module) -> None:
        """Record the identities in a network's state."""
        self._domain.stamp(network, self.identities)

    def on_cpu(self) -> CodedInput:
        """Return the same input with its codecs on the CPU."""
        codec = self.codec and self.codec.on("cpu")
        return replace(self, codec=codec, others=[further.on("cpu") for further in self.others])

    def codec_on(self, device: torch.device | str, codec: Codec | None = None) -> Codec:
        """Return one of `codecs`, by default `codec`, or its cached copy on a device."""
        codec = codec or self.codec
        if codec is None:
            raise CdlError("a network on original images has no codec, and reads no bitstreams")
        key = codec, torch.device(device)
        if key not in self._copies:
            self._copies[key] = codec.on(device)
        return self._copies[key]

    def swap(self, image: torch.Tensor) -> torch.Tensor:
        """Convert ... x 3 x H x W pixels between RGB and `channel_order`."""
        return self._domain.swap(image)

    def encode(
        self,
        sample: dict[str, Any],
        device: torch.device | str = "cpu",
        with_bits: bool = True,
        training: bool = False,
    ) -> dict[str, Any]:
        """Return a copy of a sample with its latent or reconstruction.

        A sample that has what its domain needs is returned as it is, except in evaluation after its
        image was resized or flipped: then it is encoded again.

        Args:
            sample: has `image`, 3 x H x W in 0..255, or what the domain needs already.
            device: device to encode on.
            with_bits: estimate bits, which costs time.
            training: keep what was encoded, to which labels belong; sample the codec from `codecs`
                by PyTorch's generator.

        Returns:
            the sample with `latent`, M x ceil(H/16) x ceil(W/16) or, `with_margin`, M x rows and
            columns of the coded grid, `channel_bits` (M), `side_bits`
            and `scales` (as latent), or with `reconstruction`, 3 x H x W whole numbers in 0..255;
            and with `codec_identity`, `image_size` (H, W), `image_crc32` and `bits`.

        Raises:
            CdlError: for an image that cannot be encoded, or an input of another codec.
        """
        if self.codec is None or self.domain in sample:
            has_image = "image" in sample
            if has_image:
                check_image(sample["image"])
            if self.codec is None:
                return sample
            if training or not has_image or not is_image_changed(sample):
                self._check_identity(sample)
                return sample
            sample = drop_encoding(sample)
        if "image" not in sample:
            raise CdlError(f"a sample has neither {self.domain!r} nor 'image': {sorted(sample)}")
        codec = self.codec
        if training and self.others:
            codec = self.codecs[int(torch.randint(len(self.codecs), ()))]
        return sample | self._encode_image(sample["image"], codec, device, with_bits)

    def encode_by_all(
        self, sample: dict[str, Any], device: torch.device | str = "cpu"
    ) -> dict[CodecIdentity, torch.Tensor]:
        """Return the latent, M x h x w, of a sample's `image` by each codec."""
        return {
            codec.identity: self._encode_image(sample["image"], codec, device, False)["latent"]
            for codec in self.codecs
        }

    def _encode_image(
        self, image: torch.Tensor, codec: Codec, device: torch.device | str, with_bits: bool
    ) -> dict[str, Any]:
        """Return what `encode` adds to a sample."""
        codec = self.codec_on(device, codec)
        check_encodable(image)
        common = {"codec_identity": codec.identity, "image_size": tuple(image.shape[-2:])}
        common["image_crc32"] = compute_crc32(image)
        return common | self._domain.encode(image.to(device), codec, with_bits)

    def _check_identity(self, sample: dict[str, Any]) -> None:
        identity = sample.get("codec_identity")
        if identity is not None and identity not in self.identities:
            expected = format_identities(self.identities)
            raise CdlError(f"{self.domain} was produced by {identity}; this model reads {expected}")

    def read(self, stream: Bitstream, device: torch.device | str = "cpu") -> dict[str, Any]:
        """Return a sample with the content of a bitstream, or of its base layer alone.

        Returns:
            the entries of `encode` without `channel_bits` and `side_bits`; `bits` is the size of
            the file; `height` and `width` are those of the original image, in whose pixels results
            are returned; `channel_mask`, M booleans, has the channels of a base layer (the others
            are zero).

        Raises:
            BitstreamError: if the stream is corrupted, of another codec, or a base layer where an
                image is needed.
            MisalignedImageError: if a latent's image was padded above or to the left, not by
                multiples of 16 pixels.
        """
        codec = self.find_codec(stream.codec)
        if self.has_pixels:  # the entropy code is decoded on the CPU, the image on the device
            codec = self.codec_on(device, codec)
        if not stream.codec.weights:  # a new stream's size needs its whole header
            stream = codec.identify(stream)
        height, width = stream.result_size
        common = {"codec_identity": codec.identity, "image_size": stream.image_size}
        common |= {"bits": stream.bits, "height": height, "width": width}
        return common | self._domain.read(stream, codec, device)

    def picture(self, sample: dict[str, Any]) -> torch.Tensor:
        """Return a sample's image, reconstruction or decoded latent on the CPU, 3 x H x W."""
        if "image" in sample:
            return sample["image"].cpu()
        codec = self.codec and self.codec_on(sample[self.domain].device)
        return self._domain.picture(sample, codec).cpu()

    def batch(
        self,
        samples: Sequence[dict[str, Any]],
        device: torch.device | str,
        multiple: int,
        normalize: Callable[[torch.Tensor], torch.Tensor],
        least: int = 0,
    ) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """Stack encoded samples into one batch, zero-padded on the right and below.

        Args:
            samples: encoded samples.
            device: device of the batch.
            multiple: number of pixels of which both padded sides are multiples.
            normalize: function of pixels, 3 x H x W in 0..255.
            least: number of pixels that both padded sides have at least.

        Returns:
            N x C x H'/stride + margin x W'/stride + margin, and the (H, W) of each image in pixels.
        """
        inputs = [sample[self.domain].to(device) for sample in samples]
        if self.has_pixels:
            inputs = [normalize(pixels) for pixels in inputs]
        grids = [x.shape[1:] for x in inputs]
        if self.margin:
            grids = [latent_grid(self.image_size(sample)) for sample in samples]
        step = max(multiple // self.stride, 1)
        height, width = (
            max(-(-max(sides) // step) * step, least // self.stride) + self.margin
            for sides in zip(*grids, strict=True)
        )
        padded = [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in inputs]
        return torch.stack(padded), [self.image_size(sample) for sample in samples]

    def image_size(self, sample: dict[str, Any]) -> tuple[int, int]:
        """Return (H, W) of an encoded sample's image in pixels.

        Raises:
            CdlError: if it has none, or a latent that is not of this size.
        """
        return get_image_size(sample, self.with_margin)

    def padded_size(self, batch: torch.Tensor) -> tuple[int, int]:
        """Return (H', W') in pixels of a padded batch."""
        height, width = (side - self.margin for side in batch.shape[-2:])
        return height * self.stride, width * self.stride
