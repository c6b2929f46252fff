"""Frozen learned image codec: image -> latent -> image, and image -> bitstream -> latent."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from cdl_d2.codec.bitstream.stream import Bitstream
from cdl_d2.codec.bitstream.symbols import decode_symbols, encode_symbols, identify
from cdl_d2.codec.entropy.coders import select_coder
from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic
from cdl_d2.codec.entropy.latent_coder import LatentCoder, Quantized
from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.codec.latent import QUANTIZATIONS, CodecIdentity, Latent, coded_cells, stack_for_coding
from cdl_d2.codec.network_check import check_network
from cdl_d2.codec.networks import load_codec_network
from cdl_d2.codec.registry import METRICS, check_own_name, get_architecture
from cdl_d2.device import channels_last, network_on, usable_device
from cdl_d2.errors import CdlError


class Codec(nn.Module):
    """Frozen learned image codec with a hyperprior z, or without one (factorized prior).

    *Variational Image Compression with a Scale Hyperprior* (arXiv 1802.01436); *Joint
    Autoregressive and Hierarchical Priors for Learned Image Compression* (arXiv 1809.02736).

    ```
               ┌───┐    y     ┌───┐  y_hat  ┌───┐
        x ─┬──►│g_a├──►─┬──►──┤ Q ├────►────┤g_s├──►── x_hat
    (padded)   └───┘    │     └─┬─┘         └───┘    (cropped)
                        ▼       │ scales_hat, means_hat
                      ┌───┐ z ┌─┴─┐ z_hat ┌───┐
                      │h_a├─►─┤ Q ├───►───┤h_s│  (bits: -log2 of the likelihoods)
                      └───┘   └───┘       └───┘
    ```

    `encode`: x -> y_hat. `decode`: y_hat -> x_hat. `compress`: x -> bitstream. `decompress`:
    bitstream -> y_hat, the same as that of `encode`, bit for bit.

    The codec stays in eval mode and without gradients. It computes in float32 under any autocast,
    because rounding turns small differences into other symbols.

    Args:
        network: a CompressAI image model.
        name: a registered name, or one of your own.
        quality: quality of the weights; of a variable-rate network, the rate to code at.
        metric: distortion metric of the weights, `mse` or `ms-ssim`.
        quantization: `dequantized` gives Q(y - mu) + mu, the y_hat that `decompress` gives;
            `rounded` gives round(y). They differ for entropy models that predict means mu. A
            factorized prior rounds relative to the median of each channel in both cases.

    Raises:
        CdlError: for an unknown quantization, or one that the entropy model does not allow.
    """

    def __init__(self, network: nn.Module, name: str, quality: int, metric: str, quantization: str):
        super().__init__()
        coder_class = select_coder(network, name)
        for allowed in (QUANTIZATIONS, coder_class.quantizations):
            if quantization not in allowed:
                raise CdlError(f"quantization {quantization!r} is not one of {allowed} for {name}")
        self.network = network
        self.name = name
        self.identity = CodecIdentity(name, quality, metric, quantization, fingerprint(network))
        self.coder = coder_class(network, quality)
        self._cpu_coder: LatentCoder | None = None
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Codec:
        """Stay in eval mode, also as part of a module in training."""
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
            name: a registered name.
            quality: one of the codec's qualities.
            metric: `mse` or `ms-ssim`.
            weights: path of a local file; empty for weights of CompressAI's zoo, which are
                downloaded and checked by the hash in their name, or those in this package;
                `untrained` for random weights, to count and time only.
            quantization: `dequantized` or `rounded`.

        Raises:
            CdlError: for an unknown name, quality, metric or quantization, or unreadable weights.
            FileNotFoundError: if the weights are missing.
        """
        network = load_codec_network(name, quality, metric, weights)
        if get_architecture(name).wire_number is None:  # perhaps a user's: the network is checked
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
        """Build a codec from a copy of a trained network that is built as CompressAI's models are.

        `register_codec` makes a codec available by name to configs, commands and other processes.

        Args:
            name: a name of your own, of up to 40 lower-case letters, digits and `-_.`.
            network: trained network; `check_network` lists the parts that it must have.
            channels: channels M of the latent.
            quality: 0 to 255; of a variable-rate network, the rate to code at.
            metric: `mse` or `ms-ssim`.
            quantization: `dequantized` or `rounded`.

        Raises:
            CdlError: if the network cannot be used, or a value is not one of these.
        """
        check_own_name(name)
        if quality not in range(256) or metric not in METRICS:
            raise CdlError(f"quality {quality} is not one of 0..255, or {metric!r} of {METRICS}")
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        network = copy.deepcopy(network).eval()
        network.M = channels  # as CompressAI's models state it
        check_network(network, channels, select_coder(network, name), quality)
        return cls(network, name, quality, metric, quantization)

    def at_quality(self, quality: int) -> Codec:
        """Return this variable-rate codec at another rate; both share one network."""
        if not self.coder.is_variable_rate:
            raise CdlError(f"{self.name} has one rate: load the codec of quality {quality}")
        return self._replace(self.network, quality)

    def on(self, device: torch.device | str) -> Codec:
        """Return this codec if it is on a device, else a copy of it there.

        Copies on one device share a network for as long as one of them exists.
        """
        network = network_on(self.network, usable_device(str(device)))
        return self if network is self.network else self._replace(network, self.identity.quality)

    @cached_property
    def latent_channels(self) -> int:
        """Channels of y_hat: M, or M + G for a layered representation."""
        return self.coder.channels

    @property
    def predicts_scales(self) -> bool:
        """True if the entropy model predicts a standard deviation per symbol of y."""
        return self.coder.predicts_scales

    def encode(
        self, image: torch.Tensor, with_scales: bool = False, with_bits: bool = True
    ) -> Latent:
        """Encode one image to its latent.

        Args:
            image: 3 x H x W, float, RGB in [0, 1], any H and W.
            with_scales: keep the predicted standard deviations.
            with_bits: estimate the size; the same latent takes less time without.

        Raises:
            CdlError: for another shape or dtype, or values outside [0, 1].
        """
        return self.encode_batch([image], with_scales, with_bits)[0]

    def encode_batch(
        self, images: Sequence[torch.Tensor], with_scales: bool = False, with_bits: bool = True
    ) -> list[Latent]:
        """Encode images that are padded to the same size; arguments are those of `encode`.

        On a GPU, convolutions of a batch can round differently from those of one image.
        """
        coder, rounded = self.coder, self.identity.quantization == "rounded"
        latents = []
        with exact_arithmetic(images[0].device):
            for image, y in zip(images, self._transform(images), strict=True):
                size = tuple(image.shape[1:])
                if with_scales or with_bits:
                    quantized = coder.round(y) if rounded else coder.quantize(y)
                    latents.append(coder.to_latent(quantized, size, with_scales, with_bits))
                else:
                    latents.append(Latent(coder.y_hat(y, rounded), size))
        return latents

    def compress(self, image: torch.Tensor) -> Bitstream:
        """Compress one image, 3 x H x W, float, RGB in [0, 1].

        Raises:
            CdlError: for an invalid image, or if the codec's quantization is `rounded`.
        """
        return self.compress_batch([image])[0]

    def compress_batch(self, images: Sequence[torch.Tensor]) -> list[Bitstream]:
        """Compress images that are padded to the same size."""
        coder, sizes = self.cpu_coder, [tuple(image.shape[1:]) for image in images]
        with exact_arithmetic(images[0].device):
            return [
                encode_symbols(coder.quantize(y), coder, self.identity, size)
                for y, size in zip(self._transform(images).cpu(), sizes, strict=True)
            ]

    def quantize(self, image: torch.Tensor) -> Quantized:
        """Return the symbols of one image, 3 x H x W in [0, 1], on the CPU."""
        with exact_arithmetic(image.device):
            return self.cpu_coder.quantize(self._transform([image])[0].cpu())

    def decompress(self, stream: Bitstream, with_scales: bool = False) -> Latent:
        """Decode a bitstream to its latent, on the CPU; `decode` reconstructs the image.

        Raises:
            BitstreamError: if another codec wrote the stream, or if it does not decode to the
                symbols that were written.
            CdlError: if the codec's quantization is `rounded`, which no stream has.
        """
        quantized = self.read_symbols(stream)
        with exact_arithmetic(torch.device("cpu")):
            latent = self.cpu_coder.to_latent(quantized, stream.image_size, with_scales)
        return replace(latent, padding=stream.padding)

    def identify(self, stream: Bitstream) -> Bitstream:
        """Return a bitstream as this codec's; raise BitstreamError if another wrote it."""
        return identify(stream, self.identity)

    def read_symbols(self, stream: Bitstream) -> Quantized:
        """Decode a bitstream to its symbols, on the CPU; errors are those of `decompress`."""
        coder = self.cpu_coder
        return decode_symbols(identify(stream, self.identity), coder)

    def decode(self, latent: Latent) -> torch.Tensor:
        """Reconstruct the image of a latent, 3 x H x W, float, RGB in [0, 1]."""
        return self.reconstruct(latent.y_hat, latent.image_size, latent.padding)

    def reconstruct(
        self,
        y_hat: torch.Tensor,
        image_size: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
    ) -> torch.Tensor:
        """Reconstruct the image, H x W pixels, of y_hat on the whole coded grid.

        Raises:
            CdlError: if the shape of y_hat is not that of the image size.
        """
        expected = (self.latent_channels, *coded_cells(image_size))
        if tuple(y_hat.shape) != expected:
            raise CdlError(
                f"a latent of shape {tuple(y_hat.shape)} cannot be decoded: {self.name} "
                f"expects {expected} for an image of {image_size}"
            )
        (height, width), (top, left) = image_size, padding
        with exact_arithmetic(y_hat.device):
            x_hat = self.network.g_s(channels_last(y_hat[None].float()))
        return x_hat[0, :, top : top + height, left : left + width].clamp(0, 1)

    @property
    def cpu_coder(self) -> LatentCoder:
        """Coder on the CPU, which writes and reads all strings, whatever the codec's device.

        Raises:
            CdlError: if the codec's quantization is `rounded`, which no stream has.
        """
        if self.identity.quantization != "dequantized":
            raise CdlError(
                "bitstreams hold latents of quantization 'dequantized', not "
                f"{self.identity.quantization!r}"
            )
        if next(self.network.parameters()).device.type == "cpu":
            return self.coder
        if self._cpu_coder is None:
            self._cpu_coder = self.on("cpu").coder
        return self._cpu_coder

    def _replace(self, network: nn.Module, quality: int) -> Codec:
        identity = self.identity
        return Codec(network, self.name, quality, identity.metric, identity.quantization)

    def _transform(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return y of the padded images, N x M x h x w."""
        # Estimates differ in their last bits between memory layouts; decoders have this one.
        y = self.network.g_a(stack_for_coding(images)).contiguous()
        if not y.isfinite().all():
            raise CdlError(f"the latent of {self.name} is not finite: its weights may be corrupted")
        return y
