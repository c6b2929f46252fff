"""Networks of torchvision and timm as a backend: RGB, and converted to latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cdl_d2.backend import Backend, Transform
from cdl_d2.codec.io.state_dicts import load_into
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.conversion.export import network_graphs
from cdl_d2.conversion.image_network import ImageNetwork
from cdl_d2.conversion.named_networks import (
    DETECTION,
    is_named_network,
    load_named_network,
    split_weights,
)
from cdl_d2.conversion.network_model import NetworkConfig, NetworkModel, load_model
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.nn.input.coded_input import CodedInput


class PyTorchBackend(Backend):
    """Models of `cdl_d2.conversion`; the config is a NetworkConfig, which checkpoints hold."""

    name = "pytorch"

    def load(
        self,
        weights: str | Path | None,
        device: str,
        config_file: Path | None = None,
        overrides: Sequence[Any] = (),
    ) -> tuple[nn.Module, NetworkConfig, Transform]:
        """Load a checkpoint, or a network by name with weights of its library or a file."""
        _check_no_overrides(overrides)
        name, file = split_weights(str(weights))
        if is_named_network(name) and not Path(weights).is_file():
            source = load_named_network(name, file)
            parts = source.name, source.task, source.outputs, source.preprocessing
            model = NetworkModel(
                NetworkConfig(*parts), ImageNetwork(source.network, source.preprocessing)
            )
        else:
            model = load_model(weights)
        return model.to(device).eval(), model.config, self.evaluation_transform(model.config)

    def read_card_config(
        self, config: dict[str, Any], overrides: Sequence[Any], classes: Sequence[str]
    ) -> NetworkConfig:
        _check_no_overrides(overrides)
        try:
            values = NetworkConfig.from_dict({"outputs": classes, **config})
        except (AttributeError, KeyError, TypeError) as error:
            raise CdlError(f"config is not that of a NetworkConfig: {error!r}") from error
        return values.with_classes(classes)

    def write_card_config(
        self, config: NetworkConfig, base: str | None, classes: Sequence[str], codec_weights: str
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        if base is not None:
            raise CdlError("a converted network has its config in it: none is to be named")
        values = asdict(config.with_classes(classes))
        if config.task != DETECTION:  # all outputs are classes, which the card has
            del values["outputs"]
        if config.codec:
            values["codec"]["weights"] = codec_weights
        return values, ()

    def build(
        self, config: NetworkConfig, device: str, weights: str | Path | None = None
    ) -> nn.Module:
        model = NetworkModel.build(config).to(device)
        if weights is not None:
            self.load_weights(model, Path(weights))
        return model

    def load_weights(self, network: nn.Module, path: Path) -> None:
        load_into(network, load_state_dict(path), path)

    def task(self, config: NetworkConfig) -> str:
        return config.task

    def class_names(self, config: NetworkConfig) -> tuple[str, ...]:
        return config.classes

    def has_class_names(self, config: NetworkConfig) -> bool:
        return config.classes != tuple(map(str, range(len(config.classes))))

    def coded_input(self, network: nn.Module, config: NetworkConfig) -> CodedInput:
        return network.coded_input

    def codec_weights(self, config: NetworkConfig) -> str:
        return config.codec.weights if config.codec else ""

    def evaluation_transform(self, config: NetworkConfig) -> Transform:
        return config.preprocessing.apply

    def seed(self, config: NetworkConfig) -> int | None:
        return None

    def read_output(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the output of a NetworkModel, which has this form already."""
        return output

    def export_graphs(
        self, network: nn.Module, config: NetworkConfig, size: tuple[int, int] | None = None
    ) -> ModelGraphs:
        return network_graphs(network, size)


def _check_no_overrides(overrides: Sequence[Any]) -> None:
    if overrides:
        raise CdlError(f"{overrides[0]}: a network of torchvision or timm has no config to change")
