"""One class over CompressAI's image models: image -> latent -> image."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.bitstream.stream import BASE, ENHANCEMENT, Bitstream, BitstreamError
from cdl_d2.codec.entropy.autoregressive_coder import COMPRESSAI
from cdl_d2.codec.entropy.coders import select_coder
from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import LatentCoder, Quantized
from cdl_d2.codec.io.weights_file import fingerprint, load_state_dict
from cdl_d2.codec.latent import QUANTIZATIONS, CodecIdentity, Latent, coded_cells, pad_for_coding
from cdl_d2.codec.network_check import check_network
from cdl_d2.codec.networks import network_from_weights
from cdl_d2.codec.registry import METRICS, check_own_name, find_architecture, get_architecture
from cdl_d2.codec.zoo import weights_path
from cdl_d2.device import device_of, network_on, usable_device
from cdl_d2.errors import CdlError

UNTRAINED = "untrained"


class Codec(nn.Module):
    """A frozen learned image codec.

    ```
    image --pad to 64--> g_a --> y --> Q --> y_hat --> g_s --crop--> reconstruction
                                 |           ^
                                 h_a -> z_hat -> h_s: scales (and means) of y: the bits
    encode:     image -> y_hat          compress:   image -> bitstream
    decode:     y_hat -> image          decompress: bitstream -> y_hat
    ```

    It stays in eval mode without gradients; encoding and decoding run in float32 whatever autocast
    says, because rounding would turn small differences into other latents.

    Args:
        network: a CompressAI image model.
        name: one of ARCHITECTURES (architectures.py), `tiny-<that>`, or a name of the user's.
        quality, metric: what the weights were trained for; they only name the codec. Of a
            variable-rate network, the quality is the rate at which it codes.
        quantization: `dequantized` gives Q(y - mu) + mu, the y_hat that a receiver of the bitstream
            has; `rounded` gives round(y). They differ where the entropy model predicts means mu:
            all codecs but those named bmshj2018.
            For bmshj2018-factorized both round relative to the learned median of a channel.
    """

    def __init__(self, network: nn.Module, name: str, quality: int, metric: str, quantization: str):
        super().__init__()
        if quantization not in QUANTIZATIONS:
            raise CdlError(f"quantization {quantization!r} is not one of {QUANTIZATIONS}")
        coder = _coder_class(name, network)
        if quantization not in coder.quantizations:
            raise CdlError(
                f"latents of {name} have one quantization only, {' or '.join(coder.quantizations)}"
            )
        self.network = network
        self.name = name
        self.identity = CodecIdentity(name, quality, metric, quantization, fingerprint(network))
        self.coder = coder(network, quality)
        self._cpu_coder: LatentCoder | None = None
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Codec:
        """Stay in eval mode, also as a part of a module that is trained."""
        return super().train(False)

    @classmethod
    def load(
        cls,
        name: str,
        quality: int,
        metric: str = "mse",
        weights: str = "",
        quantization: str = "dequantized",
    ) -> Codec:
        """Build a codec with trained weights.

        Args:
            weights: path of a local file; empty for the weights of CompressAI's zoo (downloaded,
                and checked by the hash in their name), or those in this package for `tiny-...`;
                `untrained` for random weights, good for counting and timing only.

        Raises:
            CdlError: for an unknown name, quality, metric or quantization, or unreadable weights.
            FileNotFoundError: if the weights are missing.
        """
        architecture = get_architecture(name)
        architecture.check_choice(quality, metric, own_weights=bool(weights))
        with torch.random.fork_rng(devices=[]):  # networks are made with random weights
            if weights == UNTRAINED:
                torch.default_generator.manual_seed(0)  # other devices' numbers go on
                network = architecture.new_network(quality)
            else:
                path = weights_path(name, quality, metric, weights)
                network = network_from_weights(name, quality, load_state_dict(path), path)
        if architecture.wire_number is None:  # its network is perhaps a user's
            return cls.from_network(name, network, network.M, quality, metric, quantization)
        return cls(network, name, quality, metric, quantization)

    @classmethod
    def from_network(
        cls,
        name: str,
        network: nn.Module,
        channels: int,
        quality: int = 1,
        metric: str = "mse",
        quantization: str = "dequantized",
    ) -> Codec:
        """A codec of any network that is built as CompressAI's image models are, see
        `check_network`; it gets a copy. For configs, commands and other processes to know it by its
        name, there is `register_codec`.

        Args:
            name: of your own, see `register_codec`.
            network: a trained one.
            channels: M, of its latent.
            quality: 0 to 255, a name for its rate; of a variable-rate network the rate itself.

        Raises:
            CdlError: if the network is another one than is needed, or for another name.
        """
        check_own_name(name)
        if quality not in range(256) or metric not in METRICS:
            raise CdlError(f"quality {quality} is not one of 0..255, or {metric!r} of {METRICS}")
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        network = copy.deepcopy(network).eval()
        network.M = channels  # where CompressAI's models say it
        check_network(network, channels, _coder_class(name, network), quality)
        return cls(network, name, quality, metric, quantization)

    def at_quality(self, quality: int) -> Codec:
        """This variable-rate codec at another rate; both share one network.

        Raises:
            CdlError: for a rate that it has not, or a codec that has one only.
        """
        if not self.coder.is_variable_rate:
            raise CdlError(f"{self.name} has one rate: load the codec of quality {quality}")
        identity = self.identity
        return Codec(self.network, self.name, quality, identity.metric, identity.quantization)

    def on(self, device: torch.device | str) -> Codec:
        """Return this codec if it is on a device, else a copy of it there.

        Codecs are shared, so that this one stays where it is. Copies on one device share a network
        for as long as one of them exists.

        Raises:
            CdlError: if there is no such device.
        """
        network = network_on(self.network, usable_device(str(device)))
        if network is self.network:
            return self
        identity = self.identity
        return Codec(network, self.name, identity.quality, identity.metric, identity.quantization)

    @cached_property
    def latent_channels(self) -> int:
        """Channels of y_hat: M, and with a layered representation M + G."""
        return self.coder.channels

    @property
    def predicts_scales(self) -> bool:
        """Whether the entropy model predicts a deviation for every symbol of y."""
        return self.coder.predicts_scales

    def encode(
        self, image: torch.Tensor, with_scales: bool = False, with_bits: bool = True
    ) -> Latent:
        """The latent of one image.

        Args:
            image: 3 x H x W, float, RGB in [0, 1], any H and W.
            with_scales: whether the latent carries the predicted scales.
            with_bits: whether its size is estimated. Without, the same latent takes less time.

        Raises:
            CdlError: for another shape or dtype, or values outside [0, 1].
        """
        return self.encode_batch([image], with_scales, with_bits)[0]

    def encode_batch(
        self, images: Sequence[torch.Tensor], with_scales: bool = False, with_bits: bool = True
    ) -> list[Latent]:
        """The latents of images, see `encode`, that are padded to the same size.

        On a GPU, convolutions of a batch can round differently from those of one image.

        Raises:
            CdlError: as `encode`; and for images of several coded sizes.
        """
        coder, rounded = self.coder, self.identity.quantization == "rounded"
        latents = []
        with exact_arithmetic(images[0].device):
            for image, y in zip(images, self._transform(images), strict=True):
                if with_scales or with_bits:
                    quantized = coder.round(y) if rounded else coder.quantize(y)
                    latent = _describe(coder, quantized, image.shape[1:], with_scales, with_bits)
                else:
                    latent = Latent(coder.y_hat(y, rounded), tuple(image.shape[1:]))
                latents.append(latent)
        return latents

    def compress(self, image: torch.Tensor) -> Bitstream:
        """The bitstream of one image, see `encode` for what it takes.

        Raises:
            CdlError: as `encode`; and if the codec's quantization is `rounded`.
        """
        return self.compress_batch([image])[0]

    def compress_batch(self, images: Sequence[torch.Tensor]) -> list[Bitstream]:
        """The bitstreams of images that are padded to the same size, see `encode_batch`."""
        coder, streams = self.cpu_coder, []
        with exact_arithmetic(images[0].device):
            for image, y in zip(images, self._transform(images).cpu(), strict=True):
                quantized = coder.quantize(y)
                scale_floor = coder.scale_floor(quantized)
                stream = Bitstream(
                    codec=self.identity,
                    image_size=tuple(image.shape[1:]),
                    strings=tuple(coder.encode(quantized, scale_floor)),
                    checksum=quantized.checksum,
                    scale_floor=scale_floor,
                )
                streams.append(stream)
        return streams

    def quantize(self, image: torch.Tensor) -> Quantized:
        """The symbols of one image, on the CPU; see `encode` for what it takes."""
        with exact_arithmetic(image.device):
            return self.cpu_coder.quantize(self._transform([image])[0].cpu())

    def decompress(self, stream: Bitstream, with_scales: bool = False) -> Latent:
        """The latent that a bitstream holds, on the CPU; `decode` makes an image of it.

        Raises:
            BitstreamError: if another codec wrote the stream, or if it does not decode to the
                symbols that were written.
            CdlError: if the codec's quantization is `rounded`, which no stream has.
        """
        quantized = self.read_symbols(stream)
        with exact_arithmetic(torch.device("cpu")):
            latent = _describe(self.cpu_coder, quantized, stream.image_size, with_scales)
        return replace(latent, padding=stream.padding)

    def identify(self, stream: Bitstream) -> Bitstream:
        """The bitstream as this codec's. CompressAI's files do not say which weights wrote them:
        they are taken for this codec's, with a warning.

        Raises:
            BitstreamError: if another codec wrote it.
        """
        theirs, ours = stream.codec, self.identity
        if theirs == ours:
            return stream
        if not ours.fits(theirs):
            raise BitstreamError(
                f"the stream was made by {theirs}; this is {ours}: {ours.differences(theirs)}"
            )
        if not theirs.weights:
            warnings.warn(
                f"files of CompressAI do not say which weights wrote them: read as of {ours}",
                stacklevel=2,
            )
        return replace(stream, codec=ours)

    def read_symbols(self, stream: Bitstream) -> Quantized:
        """What the entropy decoder makes of a bitstream; raises as `decompress`."""
        coder, stream = self.cpu_coder, self.identify(stream)
        if stream.coding in (BASE, ENHANCEMENT):
            raise BitstreamError(
                "the stream is one of two layers and does not have all channels: read both with "
                "decompress_layers, or the base layer with decompress_base"
            )
        if stream.coding == COMPRESSAI and not coder.reads_compressai:
            raise BitstreamError(
                f"what CompressAI itself wrote of {self.name} is not read: it is coded in another "
                "precision or order there"
            )
        if len(stream.strings) != coder.string_count:
            raise BitstreamError(f"{self.name} does not write {len(stream.strings)} strings")
        if stream.scale_floor and not coder.codes_channels_alone:
            raise BitstreamError(f"{self.name} has no scale floor, but the stream has one")
        grid = coded_cells(stream.image_size)
        with exact_arithmetic(torch.device("cpu")):
            quantized = coder.decode(stream.strings, grid, stream.coding, stream.scale_floor)
        unknown = stream.coding == COMPRESSAI and stream.checksum is None
        if stream.checksum != quantized.checksum and not unknown:
            raise BitstreamError(
                "the stream decodes to other symbols than were written: the machine that wrote it, "
                "or its version of PyTorch, rounds the entropy model differently"
            )
        if not quantized.is_finite:
            raise BitstreamError("the stream decodes to a latent that is not finite")
        return quantized

    def decode(self, latent: Latent) -> torch.Tensor:
        """The reconstruction, 3 x H x W, float, RGB in [0, 1].

        Raises:
            CdlError: if the latent has another number of channels, or another size than its
                image size asks for.
        """
        return self.reconstruct(latent.y_hat, latent.image_size, latent.padding)

    def reconstruct(
        self,
        y_hat: torch.Tensor,
        image_size: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
    ) -> torch.Tensor:
        """As `decode`, of y_hat on the whole coded grid."""
        expected = (self.latent_channels, *coded_cells(image_size))
        if tuple(y_hat.shape) != expected:
            raise CdlError(
                f"a latent of shape {tuple(y_hat.shape)} cannot be decoded: {self.name} "
                f"expects {expected} for an image of {image_size}"
            )
        (height, width), (top, left) = image_size, padding
        with exact_arithmetic(y_hat.device):
            x_hat = self.network.g_s(y_hat[None].float())
        return x_hat[0, :, top : top + height, left : left + width].clamp(0, 1)

    @property
    def cpu_coder(self) -> LatentCoder:
        """Writes and reads strings, on the CPU, so that what a GPU wrote a CPU can read.

        Raises:
            CdlError: if the codec's quantization is `rounded`, which no stream has.
        """
        if self.identity.quantization != "dequantized":
            raise CdlError(
                "a bitstream holds dequantized latents: build the codec with quantization "
                "'dequantized'"
            )
        if device_of(self.network).type == "cpu":
            return self.coder
        if self._cpu_coder is None:
            self._cpu_coder = self.on("cpu").coder
        return self._cpu_coder

    def _transform(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """y of the padded images, N x M x h x w."""
        for image in images:
            _check_image(image)
        if len(images) > 1 and len({coded_cells(image.shape[1:]) for image in images}) > 1:
            sizes = sorted({tuple(image.shape[1:]) for image in images})
            raise CdlError(f"a batch has images of several coded sizes: {sizes}")
        padded = torch.stack([pad_for_coding(image.float()) for image in images])
        # Estimates differ in their last bits between layouts of memory; a receiver has this one.
        y = self.network.g_a(padded).contiguous()
        if not y.isfinite().all():
            raise CdlError(
                f"{self.name} gives a latent that is not finite: are its weights damaged?"
            )
        return y


def _coder_class(name: str, network: nn.Module) -> type[LatentCoder]:
    architecture = find_architecture(name)
    return (architecture and architecture.coder) or select_coder(network)


def _describe(
    coder: LatentCoder,
    quantized: Quantized,
    image_size: Sequence[int],
    with_scales: bool,
    with_bits: bool = True,
) -> Latent:
    latent = Latent(
        y_hat=quantized.y_hat,
        image_size=tuple(image_size),
        scales_hat=quantized.scales_hat if with_scales else None,
    )
    return latent.with_bits(*coder.bits(quantized)) if with_bits else latent


def _check_image(image: torch.Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise CdlError(f"an image of shape {tuple(image.shape)} is not 3 x H x W")
    if not image.is_floating_point():
        raise CdlError(f"an image of {image.dtype} is not float RGB in [0, 1]: divide by 255")
    low, high = image.aminmax()
    if not (low >= 0 and high <= 1):  # also true for NaN
        advice = "divide by 255" if low >= 0 else "give pixels before they are normalized"
        raise CdlError(
            f"image values from {float(low):g} to {float(high):g} are not in [0, 1]: {advice}"
        )
