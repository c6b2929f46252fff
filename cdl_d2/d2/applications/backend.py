"""Detectron2 as a backend."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, Instances
from torch import nn

from cdl_d2.backend import Backend, Transform
from cdl_d2.d2.applications.export import model_graphs
from cdl_d2.d2.applications.zoo_models import overrides_between
from cdl_d2.d2.building import build_model
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import without_initialization
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.data.class_mapper import ClassMapper
from cdl_d2.d2.modeling.teacher import find_weights
from cdl_d2.d2.tasks import class_count, get_task, registered_names
from cdl_d2.data import Variant
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.files import CONFIG_FILE
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.packaged import CONFIGS, matching_configs

FIELDS = {  # of Instances, and of Detections
    "pred_boxes": "boxes",
    "pred_classes": "labels",
    "scores": "scores",
    "pred_masks": "masks",
    "pred_keypoints": "keypoints",
}
IMPLIED = {"pred_keypoint_heatmaps"}


class Detectron2Backend(Backend):
    """Models of Detectron2; the config is a CfgNode with this package's keys."""

    name = "detectron2"

    def load(
        self,
        weights: str | Path | None,
        device: str,
        config_file: Path | None = None,
        overrides: Sequence[Any] = (),
    ) -> tuple[nn.Module, CfgNode, Transform]:
        cfg = read_config(config_file or Path(weights).parent / CONFIG_FILE, overrides)
        cfg.INPUT.LATENT_SOURCE = "model"  # images are encoded where the model is
        if weights is None:
            weights = find_weights(config_file, cfg.OUTPUT_DIR)
        if not weights:
            raise CdlError(f"there are no weights of {config_file}: name {config_file}:WEIGHTS")
        return self.build(cfg, device, weights), cfg, self.evaluation_transform(cfg)

    def read_card_config(
        self, config: str, overrides: Sequence[Any], classes: Sequence[str]
    ) -> CfgNode:
        names = matching_configs(config)  # and no other file of this machine
        if len(names) != 1:
            raise CdlError(f"no config {config!r} comes with this cdl_d2")
        values = [*overrides, "MODEL.CLASS_NAMES", [*classes]]
        cfg = read_config(CONFIGS / names[0], values)
        if class_count(cfg) != len(classes):
            raise CdlError(
                f"classes are {len(classes)} names; expected {class_count(cfg)}, for the outputs "
                "of the network"
            )
        return cfg

    def write_card_config(
        self, config: CfgNode, base: str | None, classes: Sequence[str], codec_weights: str
    ) -> tuple[str, tuple[Any, ...]]:
        if base is None:
            raise CdlError(
                "a model of Detectron2: give the config of this package that comes next to it as "
                "--config-file"
            )
        names = matching_configs(base)
        if len(names) != 1:
            raise CdlError(f"no config {base!r} comes with this cdl_d2")
        cfg = config.clone()
        cfg.MODEL.CODEC.WEIGHTS = codec_weights
        return names[0], tuple(overrides_between(read_config(CONFIGS / names[0]), cfg))

    def build(self, config: CfgNode, device: str, weights: str | Path | None = None) -> nn.Module:
        config.MODEL.DEVICE = device
        if weights is None:
            return build_model(config)
        network = build_model(without_initialization(config))
        load_all_weights(network, str(weights))
        return network.eval()

    def with_weights(self, config: CfgNode, weights: Path) -> CfgNode:
        config.MODEL.WEIGHTS = str(weights)
        return without_initialization(config)

    def load_weights(self, network: nn.Module, path: Path) -> None:
        load_all_weights(network, str(path))

    def task(self, config: CfgNode) -> str:
        return get_task(config).name

    def class_names(self, config: CfgNode) -> tuple[str, ...]:
        """Return MODEL.CLASS_NAMES, else the names of its data sets, COCO's, or numbers."""
        names = config.MODEL.CLASS_NAMES or registered_names(config)
        return name_classes(names, class_count(config))

    def has_class_names(self, config: CfgNode) -> bool:
        return len(config.MODEL.CLASS_NAMES) == class_count(config)

    def coded_input(self, network: nn.Module, config: CfgNode) -> CodedInput:
        """Return the network's `coded_input`; Detectron2's own models read original images."""
        coded_input = getattr(network, "coded_input", None)
        return coded_input or CodedInput("image", None, config.INPUT.FORMAT)

    def codec_weights(self, config: CfgNode) -> str:
        return config.MODEL.CODEC.WEIGHTS

    def evaluation_transform(self, config: CfgNode) -> Transform:
        if get_task(config).of_one_size:
            return ClassMapper(config.INPUT.IMAGE_SIZE, augment=False, channel_order="RGB").view
        return Variant(config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST).apply

    def seed(self, config: CfgNode) -> int | None:
        return config.SEED if config.SEED >= 0 else None

    def read_output(self, output: dict[str, Any]) -> dict[str, Any]:
        """Replace Detectron2's `instances`; warn of fields that Detections lack."""
        if "instances" not in output:
            return output
        instances = output["instances"].to("cpu")
        boxes = instances.pred_boxes.tensor
        if boxes.shape[1] != 4:
            raise CdlError(
                f"boxes of {boxes.shape[1]} numbers: expected left, top, right and bottom"
            )
        unused = sorted(instances.get_fields().keys() - FIELDS.keys() - IMPLIED)
        if unused:
            warnings.warn(f"predictions leave out fields: {', '.join(unused)}", stacklevel=2)
        fields = {new: instances.get(old) for old, new in FIELDS.items() if instances.has(old)}
        return output | fields | {"boxes": boxes}

    def export_graphs(
        self, network: nn.Module, config: CfgNode, size: tuple[int, int] | None = None
    ) -> ModelGraphs:
        return model_graphs(network, config, size)


def name_classes(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Return as many names as there are classes: these, else COCO's, else numbers."""
    things = [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    choices = (names, things, number_classes(count))
    return tuple(next(choice for choice in choices if len(choice) == count))


def number_classes(count: int) -> tuple[str, ...]:
    """Return names of classes that have none."""
    return tuple(map(str, range(count)))


def build_instances(image_size: tuple[int, int], **fields: torch.Tensor | None) -> Instances:
    """Return Instances with the fields of Detections; those that are None are left out."""
    instances = Instances(image_size)
    for old, new in FIELDS.items():
        if fields[new] is not None:
            instances.set(old, Boxes(fields[new]) if new == "boxes" else fields[new])
    return instances
