"""Interface of the libraries whose detectors this package runs: Detectron2 and torchvision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from cdl_d2.export.graphs import ModelGraphs
    from cdl_d2.nn.input.coded_input import CodedInput

Config = Any  # Detectron2's CfgNode, or a cdl_d2.tv.DetectorConfig
Transform = Callable[[torch.Tensor], torch.Tensor]


class Backend(ABC):
    """Adapter of a library: the only object that reads the library's configs, files and outputs.

    Attributes:
        name: as cards and the command line write it.
    """

    name: str

    @abstractmethod
    def load(
        self,
        weights: str | Path | None,
        device: str,
        config_file: Path | None = None,
        overrides: Sequence[Any] = (),
    ) -> tuple[nn.Module, Config, Transform]:
        """Return a trained network, in eval mode, its config and its evaluation transform.

        Args:
            weights: a checkpoint, or what else the library loads weights from; None to find those
                of the config.
            device: `cpu` or `cuda`.
            config_file: of the model, if the checkpoint does not hold its config.
            overrides: KEY, VALUE, ... changes of the config.

        Raises:
            FileNotFoundError, CdlError: if the checkpoint or its config is missing or corrupted.
        """

    @abstractmethod
    def read_card_config(
        self, config: Any, overrides: Sequence[Any], classes: Sequence[str]
    ) -> Config:
        """Return the config of a zoo model from the values of its card.

        Raises:
            CdlError: if the values make no config, or one with another number of classes.
        """

    @abstractmethod
    def write_card_config(
        self, config: Config, base: str | None, classes: Sequence[str], codec_weights: str
    ) -> tuple[Any, tuple[Any, ...]]:
        """Return the inverse of `read_card_config`: the `config` and `overrides` of a card.

        Args:
            config: config of the trained model.
            base: name of the packaged config that the overrides refer to, where cards name one.
            classes: names of its classes.
            codec_weights: absolute path of the codec's weights; empty for published ones.

        Raises:
            CdlError: if `base` is missing, or must be None.
        """

    @abstractmethod
    def build(self, config: Config, device: str, weights: str | Path | None = None) -> nn.Module:
        """Build a network: in eval mode with its weights, or with random ones.

        Raises:
            FileNotFoundError, CdlError: if weights, config and codec do not belong together.
        """

    def with_weights(self, config: Config, weights: Path) -> Config:
        """Return a config that names its trained weights, where configs name them."""
        return config

    @abstractmethod
    def load_weights(self, network: nn.Module, path: Path) -> None:
        """Load a file of weights into a network; raises CdlError unless every entry fits."""

    @abstractmethod
    def task(self, config: Config) -> str:
        """Return the name of a model's task."""

    @abstractmethod
    def class_names(self, config: Config) -> tuple[str, ...]:
        """Return the K class names; numbers if the training kept no names."""

    @abstractmethod
    def has_class_names(self, config: Config) -> bool:
        """Return whether the training kept the names of its classes."""

    @abstractmethod
    def coded_input(self, network: nn.Module, config: Config) -> CodedInput:
        """Return the input domain and codec of a network."""

    @abstractmethod
    def codec_weights(self, config: Config) -> str:
        """Return the path of the codec's own weights; empty for published ones."""

    @abstractmethod
    def evaluation_transform(self, config: Config) -> Transform:
        """Return the resizing or cropping of an image, 3 x H x W uint8 RGB, in evaluation."""

    @abstractmethod
    def seed(self, config: Config) -> int | None:
        """Return the seed of the training, None if the config does not have it."""

    @abstractmethod
    def read_output(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return a network's output for one image in the form that `cdl_d2.prediction.tasks` reads.

        Detections become `boxes` (D x 4, left, top, right, bottom in pixels), `labels` (D, from 0),
        `scores` and, if the model has them, `masks` (D x H x W, bool) and `keypoints`
        (D x P x 3), on the CPU. All else stays as it is.
        """

    @abstractmethod
    def export_graphs(
        self, network: nn.Module, config: Config, size: tuple[int, int] | None = None
    ) -> ModelGraphs:
        """Return the parts of a network that can be exported; raises CdlError if there are none.

        Args:
            network: in eval mode.
            config: its config.
            size: (H, W) in pixels of the only images that the graphs will fit; None for any.
        """
