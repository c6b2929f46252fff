"""A trained model of either backend with all that predicting needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cdl_d2.backend import Backend, Config, Transform
from cdl_d2.errors import CdlError
from cdl_d2.export.encoder import encoder_graph
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.model_zoo.card import Card
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.prediction.reading import outcome_of
from cdl_d2.prediction.results import Prediction
from cdl_d2.prediction.tasks import Task

Outcome = Prediction | CdlError | OSError


@dataclass(frozen=True)
class PredictionModel:
    """A network, and what is needed to prepare its input and to read its output.

    Attributes:
        backend: adapter of the network's library.
        network: in eval mode; maps a list of samples to a list of the library's outputs.
        task: a value of TASKS.
        class_names: K names.
        coded_input: input domain and codec.
        resize: resizing or cropping of an image, 3 x H x W, uint8, RGB, in evaluation.
        config: Detectron2's, or a DetectorConfig.
        device: device of the network.
        card: of a model of the zoo.
        precision: type in which the network computes, a key of PRECISIONS.
    """

    backend: Backend
    network: nn.Module
    task: Task
    class_names: tuple[str, ...]
    coded_input: CodedInput
    resize: Transform
    config: Config
    device: torch.device
    card: Card | None = None
    precision: str = "float32"

    def predict_readable(self, samples: Sequence[dict[str, Any] | Exception]) -> list[Outcome]:
        """Predict a batch; if it fails, predict its samples one by one.

        Args:
            samples: those that could not be read are errors, and stay so.
        """
        readable = [i for i, sample in enumerate(samples) if isinstance(sample, dict)]
        outcomes = list(samples)
        try:
            predictions = self.predict([samples[i] for i in readable])
        except (CdlError, MemoryError, RuntimeError):
            predictions = [outcome_of(lambda s: self.predict([s])[0], samples[i]) for i in readable]
        for i, prediction in zip(readable, predictions, strict=True):
            outcomes[i] = prediction
        return outcomes

    @torch.no_grad()
    def predict(self, samples: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predict samples of SourceReader; those of one size form a batch."""
        batches: dict[tuple[int, ...], list[int]] = {}
        for index, sample in enumerate(samples):
            size = sample["image_size"] if "image_size" in sample else sample["image"].shape[1:]
            batches.setdefault(tuple(size), []).append(index)
        predictions: list[Prediction | None] = [None] * len(samples)
        for indices in batches.values():
            outputs = self.network([samples[i] for i in indices])
            for i, output in zip(indices, outputs, strict=True):
                size = samples[i]["height"], samples[i]["width"]
                common: dict[str, Any] = {"image_size": size, "class_names": self.class_names}
                if "bits" in output:
                    bits, pixels = float(output["bits"]), math.prod(output["image_size"])
                    common |= {"bits": bits, "bits_per_pixel": bits / pixels}
                predictions[i] = self.task.prediction(self.backend.read_output(output), **common)
        return predictions

    def export_graphs(self, size: tuple[int, int] | None = None) -> ModelGraphs:
        """Return the graphs of the model, and of the encoder of its codec.

        Args:
            size: (H, W) in pixels of the only images that the graphs will fit; None for any.

        Raises:
            CdlError: if the model cannot be exported.
        """
        graphs = self.backend.export_graphs(self.network, self.config, size)
        graphs.card["class_names"] = list(self.class_names)
        codec, whole, reasons = self.coded_input.codec, graphs.whole, dict(graphs.not_exported)
        if codec is not None:
            try:
                whole += (encoder_graph(codec),)
            except CdlError as error:
                reasons["encoder"] = str(error)
        return replace(graphs, whole=whole, not_exported=reasons)
