"""A trained model of either backend, ready to predict: from items to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cdl_d2.backend import Backend, Config, Transform
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.model_zoo.card import Card
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.prediction.results import Prediction
from cdl_d2.prediction.tasks import Task


@dataclass(frozen=True)
class PredictionModel:
    """A network, and what must be known to show it an image and to read its output.

    Attributes:
        backend: adapter of the library that the network is of.
        network: in eval mode; maps a list of items to a list of the library's outputs.
        task: an entry of TASKS.
        class_names: K.
        coded_input: what it looks at.
        resize: an image, 3 x H x W, uint8, RGB, as it is resized or cropped in evaluation.
        config: Detectron2's, or a DetectorConfig.
        card: of a model of the zoo.
    """

    backend: Backend
    network: nn.Module
    task: Task
    class_names: tuple[str, ...]
    coded_input: CodedInput
    resize: Transform
    config: Config
    card: Card | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def predict(self, items: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predictions for items of SourceReader; those of one size are looked at together."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(items):
            size = item["image_size"] if "image_size" in item else item["image"].shape[1:]
            groups.setdefault(tuple(size), []).append(index)
        found: dict[int, Prediction] = {}
        for members in groups.values():
            outputs = self.network([items[i] for i in members])
            for i, output in zip(members, outputs, strict=True):
                found[i] = self._prediction(items[i], output)
        return [found[i] for i in range(len(items))]

    def export_graphs(self, size: tuple[int, int] | None = None) -> ModelGraphs:
        """Return the parts of the model that can be exported; see Backend.export_graphs."""
        graphs = self.backend.export_graphs(self.network, self.config, size)
        graphs.card["class_names"] = list(self.class_names)
        return graphs

    def _prediction(self, item: dict[str, Any], output: dict[str, Any]) -> Prediction:
        common: dict[str, Any] = {
            "image_size": (item["height"], item["width"]),
            "class_names": self.class_names,
        }
        if "bits" in output:
            height, width = output["image_size"]
            common["bits"] = float(output["bits"])
            common["bits_per_pixel"] = common["bits"] / (height * width)
        return self.task.prediction(self.backend.read_output(output), **common)
