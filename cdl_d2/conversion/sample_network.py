"""Models that take samples, dicts with `image`, run on images as an ImageNetwork does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cdl_d2.codec import Codec, Latent
from cdl_d2.device import device_of
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.domains import IMAGE, LATENT

SMALLEST_PROBABILITY = 1e-30


class SampleNetwork(nn.Module):
    """A model of Detectron2, or of this package, that runs on images, 3 x H x W, uint8, RGB.

    Args:
        model: takes a list of samples.
        channel_order: of a sample's `image`, `BGR` or `RGB`.
        predict: runs the model without post-processing; default the model itself.
    """

    def __init__(
        self,
        model: nn.Module,
        channel_order: str,
        predict: Callable[[list[dict[str, Any]]], Any] | None = None,
    ):
        super().__init__()
        self.network, self._is_bgr = model.eval(), channel_order == "BGR"
        self._predict = predict or model
        coded_input: CodedInput | None = getattr(model, "coded_input", None)
        self._inputs = [
            replace(coded_input, codec=codec, others=())
            for codec in (coded_input.codecs if coded_input else ())
        ]

    def train(self, mode: bool = True) -> SampleNetwork:
        """Stay in eval mode: normalizations keep their statistics, dropout is off."""
        return super().train(False)

    def run(self, images: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the logits of a segmentation model or classifier; {} for a detector.

        Images of several sizes run one by one.

        Returns:
            `out`, N x K x H x W, of images of one size or one image; or `logits`, N x K.
        """
        if len({image.shape for image in images}) > 1:
            outputs = [self.run([image]) for image in images]
            return {key: [output[key] for output in outputs] for key in outputs[0]}
        results = self._predict([self._sample(image) for image in images])
        if not isinstance(results, list) or not isinstance(results[0], dict):
            return {}
        if {"instances", "boxes"} & results[0].keys():
            return {}
        if "sem_seg" in results[0]:
            return {"out": torch.stack([result["sem_seg"] for result in results])}
        scores = torch.stack([result["scores"] for result in results])
        return {"logits": scores.clamp(min=SMALLEST_PROBABILITY).log()}

    def _sample(self, image: torch.Tensor) -> dict[str, Any]:
        """Return a sample of an image; encoded, by a codec that depends on the image alone."""
        sample = _build_sample(IMAGE, image, self._is_bgr)
        if not self._inputs:
            return sample
        coded_input = self._inputs[int(image.sum()) % len(self._inputs)]
        sample = coded_input.encode(sample, device_of(self), with_bits=False)
        return {key: value for key, value in sample.items() if key != "image"}


class SamplePredictor(nn.Module):
    """A model that takes samples, with its predictions for images and for latents.

    Args:
        model: takes a list of samples, and returns a list of predictions.
        channel_order: of a sample's pixels, `BGR` or `RGB`.
        codec: codec of the latents, which a model on pixels reads decoded.
    """

    def __init__(self, model: nn.Module, channel_order: str, codec: Codec):
        super().__init__()
        self.network, self._is_bgr = model.eval(), channel_order == "BGR"
        self._codec = [codec]  # a list: no submodule
        coded_input: CodedInput | None = getattr(model, "coded_input", None)
        self._domain = coded_input.domain if coded_input else IMAGE
        self._with_margin = coded_input is not None and coded_input.with_margin

    def run(self, images: Sequence[torch.Tensor]) -> Any:
        """Return the predictions of a model on pixels for images, 3 x H x W, uint8, RGB."""
        return self.network([_build_sample(IMAGE, image, self._is_bgr) for image in images])

    def forward(self, latents: Sequence[Latent]) -> Any:
        """Return the predictions for latents, in pixels of their images."""
        return self.network([self._read(latent) for latent in latents])

    def _read(self, latent: Latent) -> dict[str, Any]:
        codec, (height, width) = self._codec[0], latent.image_size
        coded = {"codec_identity": codec.identity, "image_size": latent.image_size}
        if self._domain == LATENT:
            y_hat = latent.cells_and_margin if self._with_margin else latent.cells
            return coded | {LATENT: y_hat, "height": height, "width": width}
        pixels = torch.round(codec.on(device_of(self)).decode(latent) * 255)
        sample = _build_sample(self._domain, pixels, self._is_bgr)
        return sample if self._domain == IMAGE else coded | sample


def _build_sample(domain: str, image: torch.Tensor, is_bgr: bool) -> dict[str, Any]:
    """Return a sample of RGB pixels, 3 x H x W, whose results are in the same pixels."""
    height, width = image.shape[1:]
    return {domain: image.flip(0) if is_bgr else image, "height": height, "width": width}
