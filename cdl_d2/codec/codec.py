"""One class over CompressAI's image models: image -> latent -> image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cdl_d2.codec.architectures import (
    TINY_PREFIX,
    check_codec_choice,
    network_from_weights,
    new_network,
)
from cdl_d2.codec.autoregressive import decode_order_latent
from cdl_d2.codec.latent import (
    CODING_MULTIPLE,
    MEANINGS,
    STRIDE,
    CodecIdentity,
    Latent,
    pad_for_coding,
)
from cdl_d2.codec.weights_file import fingerprint, load_state_dict
from cdl_d2.codec.zoo import weights_path

UNTRAINED = "untrained"


class Codec(nn.Module):
    """A frozen learned image codec.

    ```
    image --pad to 64--> g_a --> y --> Q --> y_hat --> g_s --crop--> reconstruction
                                 |           ^
                                 h_a -> z_hat -> h_s: scales (and means) of y: the bits
    ```

    It starts in eval mode without gradients; encoding and decoding run in float32 whatever
    autocast says, because rounding would turn small differences into other latents.

    Args:
        network: a CompressAI image model.
        name: as CompressAI names it, or `tiny-<that>`.
        quality, metric: what the weights were trained for; they only name the codec.
        meaning: `decoded` gives the y_hat that a receiver of the bitstream has, `rounded` gives
            round(y), which the networks of the knowledge-transfer paper were fed with. They
            differ where the entropy model predicts means (mbt2018-mean, mbt2018, cheng2020).
            For bmshj2018-factorized both round relative to the learned median of a channel.
    """

    def __init__(self, network: nn.Module, name: str, quality: int, metric: str, meaning: str):
        super().__init__()
        if meaning not in MEANINGS:
            raise ValueError(f"meaning {meaning!r} of a latent is not one of {MEANINGS}")
        self.network = network
        self.name = name
        self.identity = CodecIdentity(name, quality, metric, meaning, fingerprint(network))
        self.eval().requires_grad_(False)

    @classmethod
    def load(
        cls,
        name: str,
        quality: int,
        metric: str = "mse",
        weights: str = "",
        meaning: str = "decoded",
    ) -> Codec:
        """Build a codec with trained weights.

        Args:
            weights: path of a local file; empty for the weights of CompressAI's zoo (downloaded,
                and checked by the hash in their name), or those in this package for `tiny-...`;
                `untrained` for random weights, good for counting and timing only.

        Raises:
            ValueError: for an unknown name, quality, metric or meaning, or unreadable weights.
            FileNotFoundError: if the weights are missing.
        """
        check_codec_choice(name, quality, metric, own_weights=bool(weights))
        if weights == UNTRAINED:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = new_network(name, quality)
        else:
            path = weights_path(name, quality, metric, weights)
            network = network_from_weights(name, load_state_dict(path))
        return cls(network, name, quality, metric, meaning)

    @property
    def latent_channels(self) -> int:
        """Channels M of y_hat."""
        return int(self.network.M) if hasattr(self.network, "M") else int(self.network.N)

    def encode(self, image: torch.Tensor, with_scales: bool = False) -> Latent:
        """The latent of one image.

        Args:
            image: 3 x H x W, float, RGB in [0, 1], any H and W.

        Raises:
            ValueError: for another shape or dtype, or values outside [0, 1].
        """
        _check_image(image)
        with _exact_arithmetic(image.device):
            x = pad_for_coding(image.float())[None]
            y_hat, scales_hat, likelihoods = self._analyse(x)
        bits = {k: -torch.log2(v) for k, v in likelihoods.items()}
        side_bits = float(bits["z"].sum(dtype=torch.float64)) if "z" in bits else 0.0
        return Latent(
            y_hat=y_hat[0],
            image_size=(image.shape[1], image.shape[2]),
            bits=bits["y"][0].sum(0),
            side_bits=side_bits,
            scales_hat=scales_hat[0] if with_scales and scales_hat is not None else None,
        )

    def decode(self, latent: Latent) -> torch.Tensor:
        """The reconstruction, 3 x H x W, float, RGB in [0, 1].

        Raises:
            ValueError: if the latent has another number of channels, or another size than its
                image size asks for.
        """
        grid = tuple(
            -(-s // CODING_MULTIPLE) * CODING_MULTIPLE // STRIDE for s in latent.image_size
        )
        expected = (self.latent_channels, *grid)
        if tuple(latent.y_hat.shape) != expected:
            raise ValueError(
                f"a latent of shape {tuple(latent.y_hat.shape)} cannot be decoded: {self.name} "
                f"expects {expected} for an image of {latent.image_size}"
            )
        height, width = latent.image_size
        with _exact_arithmetic(latent.y_hat.device):
            x_hat = self.network.g_s(latent.y_hat[None].float())
        return x_hat[0, :, :height, :width].clamp(0, 1)

    def _analyse(self, x: torch.Tensor):
        """y_hat, scales_hat (None without a hyperprior) and likelihoods of y and z."""
        network, architecture = self.network, self.name.removeprefix(TINY_PREFIX)
        y = network.g_a(x)
        if architecture == "bmshj2018-factorized":
            y_hat, y_likelihoods = network.entropy_bottleneck(y)
            return y_hat, None, {"y": y_likelihoods}
        gaussian = network.gaussian_conditional
        z = network.h_a(y.abs() if architecture == "bmshj2018-hyperprior" else y)
        z_hat, z_likelihoods = network.entropy_bottleneck(z)
        params = network.h_s(z_hat)
        if architecture == "bmshj2018-hyperprior":
            y_hat, y_likelihoods = gaussian(y, params)
            return y_hat, params, {"y": y_likelihoods, "z": z_likelihoods}

        rounded = torch.round(y)
        if architecture == "mbt2018-mean":
            scales_hat, means_hat = params.chunk(2, 1)
            y_hat = torch.round(y - means_hat) + means_hat
        elif self.identity.meaning == "decoded":
            y_hat, scales_hat, means_hat = decode_order_latent(network, y, params)
        else:  # CompressAI's forward: contexts of the rounded latent, all positions at once
            context = network.context_prediction(rounded)
            merged = network.entropy_parameters(torch.cat((params, context), dim=1))
            scales_hat, means_hat = merged.chunk(2, 1)
            y_hat = rounded
        _, y_likelihoods = gaussian(y, scales_hat, means=means_hat)
        if self.identity.meaning == "rounded":
            y_hat = rounded
        return y_hat, scales_hat, {"y": y_likelihoods, "z": z_likelihoods}


@contextmanager
def _exact_arithmetic(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and no TF32, in which a GPU would round differently."""
    with (
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
    ):
        yield


def _check_image(image: torch.Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"an image of shape {tuple(image.shape)} is not 3 x H x W")
    if not image.is_floating_point():
        raise ValueError(f"an image of {image.dtype} is not float RGB in [0, 1]: divide by 255")
    low, high = image.aminmax()
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise ValueError(
            f"image values from {float(low):g} to {float(high):g} are not in [0, 1]: divide by 255"
        )
