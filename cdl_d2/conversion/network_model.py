"""A network by name as a model of samples: its config, and its outputs for images and bitstreams.

Shapes: N images, M latent channels, h x w latent positions, K outputs, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.choice import CodecChoice
from cdl_d2.codec.io.state_dicts import extract_state_dict, load_into
from cdl_d2.codec.io.weights_file import read_weights, save_checkpoint
from cdl_d2.codec.latent import Latent, current_fields
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.latent_network import DECODER_STRIDE, LatentNetwork
from cdl_d2.conversion.named_networks import (
    BACKGROUND,
    CLASSIFICATION,
    DETECTION,
    UNUSED,
    build_named_network,
)
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.domains import IMAGE, LATENT
from cdl_d2.nn.input.sample import get_output_size, rate_fields

KIND = "network_config"  # key of the config in a checkpoint
MASK_THRESHOLD = 0.5
Size = tuple[int, int]


@dataclass(frozen=True)
class NetworkConfig:
    """All of a model but its weights.

    Attributes:
        network: `torchvision/NAME` or `timm/NAME`.
        task: `classification`, `segmentation` or `detection`.
        outputs: K names; of a detector with BACKGROUND and UNUSED.
        preprocessing: of images.
        domain: input domain, `latent`, `reconstruction` or `image`.
        codec: codec of the input; None for domain `image`.
        decoder_stride: stride in pixels at which the bridge's layers of the decoder end.
        width: rank of the bridge's linear map; None for the number of channels that it reads.
        entry: module that the bridge replaces; empty for the first convolution.
    """

    network: str
    task: str
    outputs: tuple[str, ...]
    preprocessing: Preprocessing
    domain: str = IMAGE
    codec: CodecChoice | None = None
    decoder_stride: int = DECODER_STRIDE
    width: int | None = None
    entry: str = ""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> NetworkConfig:
        """Build a config from the dict that `dataclasses.asdict` makes of one."""
        codec = content["codec"] and CodecChoice(**current_fields(content["codec"]))
        preprocessing = Preprocessing(**content["preprocessing"])
        outputs = tuple(content["outputs"])
        changes = {"codec": codec, "preprocessing": preprocessing, "outputs": outputs}
        return cls(**{**content, **changes})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.outputs[i] for i in self.class_outputs)

    @property
    def class_outputs(self) -> list[int]:
        """Index of the output of each class."""
        skipped = (BACKGROUND, UNUSED) if self.task == DETECTION else ()
        return [i for i, name in enumerate(self.outputs) if name not in skipped]

    def with_classes(self, classes: Sequence[str]) -> NetworkConfig:
        """Return the config with other names of its classes.

        Raises:
            CdlError: for another number of names.
        """
        indices, outputs = self.class_outputs, list(self.outputs)
        if len(classes) != len(indices):
            raise CdlError(f"{len(classes)} names for the {len(indices)} classes of {self.network}")
        for index, name in zip(indices, classes, strict=True):
            outputs[index] = name
        return replace(self, outputs=tuple(outputs))


class NetworkModel(nn.Module):
    """A network that reads samples of images or bitstreams.

    Args:
        config: config of the model.
        runner: the network for the config's domain.
    """

    def __init__(self, config: NetworkConfig, runner: ImageNetwork):
        super().__init__()
        self.config, self.runner = config, runner
        codec = config.codec and config.codec.load()
        self.coded_input = CodedInput(config.domain, codec, with_margin=config.domain == LATENT)
        self.coded_input.stamp(self)

    @classmethod
    def build(cls, config: NetworkConfig) -> NetworkModel:
        """Build a model with random weights, in eval mode.

        Raises:
            CdlError, FileNotFoundError: for an unknown network or codec, or one without a bridge.
        """
        network = build_named_network(config.network, len(config.outputs)).requires_grad_(False)
        if config.domain == LATENT:
            codec = config.codec.load()
            bridge = config.decoder_stride, config.width, config.entry
            runner = LatentNetwork(network, codec, config.preprocessing, *bridge)
        else:
            runner = ImageNetwork(network, config.preprocessing)
        return cls(config, runner).eval()

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return device_of(self)

    def forward(self, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the network's outputs for samples of one size.

        Args:
            samples: each with `image`, 3 x H x W, uint8, RGB, or an encoded input, and optionally
                `height` and `width` of the original image, to which outputs refer.

        Returns:
            one dict per sample: `scores`, K probabilities; or `sem_seg`, K x height x width; or
            `boxes` (D x 4), `labels` (D, from 0), `scores` (D) and perhaps `masks` (D x height x
            width, bool) and `keypoints` (D x P x 3); and for a coded image `bits` and `image_size`.

        Raises:
            CdlError: if a sample cannot be encoded, or the network cannot read images of its size.
        """
        samples = [self.coded_input.encode(sample, self.device) for sample in samples]
        inputs = [sample[self.config.domain].to(self.device) for sample in samples]
        sizes = [self.coded_input.image_size(sample) for sample in samples]
        try:
            if self.config.domain == LATENT:
                output = self.runner([Latent(*pair) for pair in zip(inputs, sizes, strict=True)])
            else:
                output = self.runner.run(inputs)
        except AssertionError as error:  # of networks that read a single size
            raise CdlError(
                f"{self.config.network} cannot read an image of {sizes[0]} pixels: {error}"
            ) from error
        targets = [get_output_size(sample, s) for sample, s in zip(samples, sizes, strict=True)]
        results = self._read(output, sizes, [(int(h), int(w)) for h, w in targets])
        return [r | rate_fields(sample) for r, sample in zip(results, samples, strict=True)]

    def _read(
        self, output: Any, sizes: Sequence[Size], targets: Sequence[Size]
    ) -> list[dict[str, torch.Tensor]]:
        """Return the results of images of `sizes` in pixels of the `targets`."""
        if self.config.task == CLASSIFICATION:
            return [{"scores": scores.float().softmax(0)} for scores in output]
        if self.config.task == DETECTION:
            labels = torch.full((len(self.config.outputs),), -1)
            indices = self.config.class_outputs
            labels[indices] = torch.arange(len(indices))
            return [
                _read_detections(*entry, labels)
                for entry in zip(output, sizes, targets, strict=True)
            ]
        logits = output["out"] if isinstance(output, Mapping) else output
        return [
            {"sem_seg": F.interpolate(scores[None].float(), target, mode="bilinear")[0]}
            for scores, target in zip(logits, targets, strict=True)
        ]


def _read_detections(
    output: Mapping[str, torch.Tensor], size: Size, target: Size, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return a detector's output for an image of `size`, in pixels of `target`, on the CPU.

    Args:
        output: of a detector of torchvision.
        size: (H, W) of the image that it read.
        target: (H, W) of the original image.
        labels: class of each output, from 0; -1 for none.
    """
    output = {name: value.cpu() for name, value in output.items()}
    scale = torch.tensor([target[1] / size[1], target[0] / size[0]])
    results = {
        "boxes": output["boxes"] * scale.repeat(2),
        "labels": labels[output["labels"]],
        "scores": output["scores"],
    }
    if "masks" in output:
        masks = F.interpolate(output["masks"], target, mode="bilinear")
        results["masks"] = masks[:, 0] > MASK_THRESHOLD
    if "keypoints" in output:
        points = output["keypoints"][..., :2] * scale
        results["keypoints"] = torch.cat([points, output["keypoints_scores"][..., None]], -1)
    is_class = results["labels"] >= 0
    return {name: value[is_class] for name, value in results.items()}


def save_model(path: Path, model: NetworkModel) -> None:
    """Write weights and config of a model to one file, atomically."""
    save_checkpoint(path, {KIND: asdict(model.config), "model": model.state_dict()})


def load_model(path: str | Path) -> NetworkModel:
    """Load a file of `save_model`, in eval mode; nothing is unpickled or downloaded.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is corrupted or of another kind, or weights and config do not fit.
    """
    content = read_weights(path)
    if not is_network_checkpoint(content):
        raise CdlError(f"{path} is no converted network: it lacks config or weights")
    try:
        config = NetworkConfig.from_dict(content[KIND])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise CdlError(f"{path} has an unusable config: {error!r}") from error
    if config.codec:
        config = replace(config, codec=config.codec.beside(Path(path).parent))
    model = NetworkModel.build(config)
    load_into(model, extract_state_dict({"model": content["model"]}, path), path)
    return model


def is_network_checkpoint(content: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is that of `save_model`."""
    return isinstance(content.get(KIND), dict) and isinstance(content.get("model"), dict)
