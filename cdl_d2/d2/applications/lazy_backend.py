"""Models of Detectron2 whose config is a LazyConfig, as a backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import ListConfig
from torch import nn

from cdl_d2.backend import Transform
from cdl_d2.d2.applications.backend import Detectron2Backend, name_classes
from cdl_d2.d2.applications.export import model_graphs
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.lazy_config import LazyModel, read_lazy_config
from cdl_d2.d2.modeling.teacher import find_weights
from cdl_d2.d2.tasks import match_task
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.files import CONFIG_FILE
from cdl_d2.nn.input.coded_input import CodedInput


class LazyBackend(Detectron2Backend):
    """Models of Detectron2 with a LazyModel as config; they have no cards."""

    name = "lazyconfig"

    def load(
        self,
        weights: str | Path | None,
        device: str,
        config_file: Path | None = None,
        overrides: Sequence[Any] = (),
    ) -> tuple[nn.Module, LazyModel, Transform]:
        lazy = read_lazy_config(config_file or Path(weights).parent / CONFIG_FILE)
        if overrides:
            raise CdlError(f"{overrides[0]} is no key of a LazyConfig: change {lazy.file}")
        weights = weights or find_weights(lazy.file, lazy.output_dir)
        if not weights:
            raise CdlError(f"there are no weights of {lazy.file}: name {lazy.file}:WEIGHTS")
        return self.build(lazy, device, weights), lazy, self.evaluation_transform(lazy)

    def read_card_config(
        self, config: Any, overrides: Sequence[Any], classes: Sequence[str]
    ) -> LazyModel:
        raise CdlError("a model card has no LazyConfig")

    def write_card_config(
        self, config: LazyModel, base: str | None, classes: Sequence[str], codec_weights: str
    ) -> tuple[Any, tuple[Any, ...]]:
        raise CdlError(
            f"{config.file} is a LazyConfig, and cards of the zoo name configs in YAML: use its "
            "folder as it is"
        )

    def build(self, config: LazyModel, device: str, weights: str | Path | None = None) -> nn.Module:
        network = config.build(device)
        if weights is None:
            return network
        load_all_weights(network, str(weights))
        return network.eval()

    def with_weights(self, config: LazyModel, weights: Path) -> LazyModel:
        return config

    def task(self, config: LazyModel) -> str:
        return match_task(config.architecture).name

    def class_names(self, config: LazyModel) -> tuple[str, ...]:
        """Return the config's names, else COCO's if their number fits, else numbers."""
        return name_classes(config.class_names, config.class_count)

    def has_class_names(self, config: LazyModel) -> bool:
        return bool(config.class_names)

    def coded_input(self, network: nn.Module, config: LazyModel) -> CodedInput:
        coded_input = getattr(network, "coded_input", None)
        return coded_input or CodedInput("image", None, config.channel_order)

    def codec_weights(self, config: LazyModel) -> str:
        raise CdlError(f"{config.file} is a LazyConfig, which has no card")

    def evaluation_transform(self, config: LazyModel) -> Transform:
        return config.test_variant.apply

    def seed(self, config: LazyModel) -> int | None:
        return None

    def export_graphs(
        self, network: nn.Module, config: LazyModel, size: tuple[int, int] | None = None
    ) -> ModelGraphs:
        coded_input = self.coded_input(network, config)
        if (square := network.backbone.padding_constraints.get("square_size", 0)) and size is None:
            size = square, square  # to which all images are padded
        graphs = model_graphs(network, None, size, coded_input, config.class_count)
        graphs.card.update(_without_list_configs(graphs.card))
        return graphs


def _without_list_configs(value: Any) -> Any:
    """Return a card whose lists of a LazyConfig are plain ones, for JSON."""
    if isinstance(value, Mapping):
        return {key: _without_list_configs(item) for key, item in value.items()}
    is_list = isinstance(value, (list, tuple, ListConfig))
    return [_without_list_configs(item) for item in value] if is_list else value
