"""torchvision as a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from cdl_d2.backend import Backend, Transform
from cdl_d2.codec.io.state_dicts import load_into
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.data import Variant
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.files import CONFIG_FILE
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.tv.checkpoint import (
    TORCHVISION_ZOO,
    load_detector,
    load_rgb_detector,
    read_checkpoint,
)
from cdl_d2.tv.compressed_mask_rcnn import read_detections
from cdl_d2.tv.detector_config import DetectorConfig, build_detector, evaluation_sizes
from cdl_d2.tv.export import detector_graphs


class TorchvisionBackend(Backend):
    """Detectors of torchvision; the config is a DetectorConfig, which checkpoints hold."""

    name = "torchvision"

    def load(
        self,
        weights: str | Path | None,
        device: str,
        config_file: Path | None = None,
        overrides: Sequence[Any] = (),
    ) -> tuple[nn.Module, DetectorConfig, Transform]:
        if overrides:
            raise CdlError(f"{overrides[0]}: a model of torchvision has no config to change")
        if str(weights) == TORCHVISION_ZOO:
            network, config = load_rgb_detector(TORCHVISION_ZOO)
            return network.to(device), config, self.evaluation_transform(config)
        try:
            content = read_checkpoint(weights)
        except CdlError as error:
            raise CdlError(
                f"{error}; a model of Detectron2 needs {Path(weights).parent / CONFIG_FILE}, "
                "such as cfg.dump() gives"
            ) from error
        network, config = load_detector(weights, content)
        training = content.get("training", {})
        short_edge, longest = evaluation_sizes(config)
        sizes = training.get("short_edge_val", short_edge), training.get("max_size", longest)
        return network.to(device), config, Variant(*sizes).apply

    def read_card_config(
        self, config: dict[str, Any], overrides: Sequence[Any], classes: Sequence[str]
    ) -> DetectorConfig:
        if overrides:
            raise CdlError(f"{overrides[0]}: a model of torchvision has no config to change")
        try:
            detector_config = DetectorConfig.from_dict(config)
        except (AttributeError, KeyError, TypeError) as error:
            raise CdlError(f"config is not that of a DetectorConfig: {error!r}") from error
        if detector_config.classes != tuple(classes):
            raise CdlError("classes and config.classes differ")
        return detector_config

    def write_card_config(
        self, config: DetectorConfig, base: str | None, classes: Sequence[str], codec_weights: str
    ) -> tuple[dict[str, Any], tuple[Any, ...]]:
        if base is not None:
            raise CdlError("a model of torchvision has its config in it: no --config-file")
        if tuple(classes) != config.classes:
            raise CdlError(f"the model has the classes {', '.join(config.classes)}: no --classes")
        values = asdict(config)
        if config.codec:
            values["codec"]["weights"] = codec_weights
        return values, ()

    def build(
        self, config: DetectorConfig, device: str, weights: str | Path | None = None
    ) -> nn.Module:
        network = build_detector(config).to(device)
        if weights is not None:
            self.load_weights(network, weights)
            network.eval()
        return network

    def load_weights(self, network: nn.Module, path: Path) -> None:
        load_into(network, load_state_dict(path), path)

    def task(self, config: DetectorConfig) -> str:
        return "detection"

    def class_names(self, config: DetectorConfig) -> tuple[str, ...]:
        return tuple(config.classes)

    def has_class_names(self, config: DetectorConfig) -> bool:
        return True

    def coded_input(self, network: nn.Module, config: DetectorConfig) -> CodedInput:
        return network.coded_input

    def codec_weights(self, config: DetectorConfig) -> str:
        return config.codec.weights if config.codec else ""

    def evaluation_transform(self, config: DetectorConfig) -> Transform:
        return Variant(*evaluation_sizes(config)).apply

    def seed(self, config: DetectorConfig) -> int | None:
        return None

    read_output = staticmethod(read_detections)

    def export_graphs(
        self, network: nn.Module, config: DetectorConfig, size: tuple[int, int] | None = None
    ) -> ModelGraphs:
        return detector_graphs(network, size)
