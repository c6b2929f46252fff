"""Conversion of a trained RGB model to latent input, with unlabelled images.

A linear bridge replaces the first convolution and is fitted to the images. Then the model is
trained to reproduce the RGB model's features and outputs on them.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from cdl_d2.codec import STRIDE, CodecChoice
from cdl_d2.codec.io.weights_file import save_checkpoint
from cdl_d2.conversion import DistillationOptions, Preprocessing
from cdl_d2.conversion.image_sets import (
    LEAST_IMAGES,
    distil_on_images,
    list_images,
    split_images,
)
from cdl_d2.conversion.output_folder import (
    conversion_folder,
    describe_file,
    describe_images,
    read_finished_report,
)
from cdl_d2.conversion.report import Report
from cdl_d2.conversion.sample_network import SampleNetwork
from cdl_d2.d2.applications.backend import Detectron2Backend
from cdl_d2.d2.applications.conversion_outcome import Outcome, check_prediction
from cdl_d2.d2.applications.proposal_labels import proposal_labels
from cdl_d2.d2.checkpoint import SafeCheckpointer, load_all_weights
from cdl_d2.d2.engine.trainer import check_bridged_weights
from cdl_d2.d2.modeling.backbone.bridged_backbone import find_replaced_stage
from cdl_d2.d2.modeling.teacher import find_weights
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError, with_advice
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE, write_text
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.bridge.linear_bridge import LinearBridge
from cdl_d2.nn.bridge.stage import run_to
from cdl_d2.nn.input.domains import LATENT

OUTPUT_FILES = (WEIGHTS_FILE, CONFIG_FILE)
Config = Any  # of the converted model: a CfgNode or a LazyModel
Reader = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class ModelConversion(ABC):
    """Conversion with its arguments; a subclass makes the converted model's config.

    Attributes:
        config_file: config of the RGB model.
        images: files of unlabelled images.
        codec: codec whose latents the converted model reads.
        output: folder to write, laid out as that of a training.
        weights: file or URL of the RGB model's weights; default those that find_weights finds.
        base_overrides: KEY, VALUE, ... changes that belong to the RGB model's config.
        overrides: KEY VALUE changes of the new config, such as MODEL.BRIDGE.FIT_IMAGES 500.
        domain: input of the result: `latent`; or `reconstruction`, for the RGB model on decoded
            images, trained in the same way.
        entry: what the bridge replaces, of `conv1`, `stem`, `res2` and `res3`; default `conv1`.
        finest_level: of the result's pyramid, such as 3 for P3; default that of the RGB model, or
            the first one behind the entry.
        distillation: options of the training; None for the fit alone.
    """

    backend: ClassVar[Detectron2Backend] = Detectron2Backend()

    config_file: Path
    images: Sequence[Path]
    codec: CodecChoice
    output: Path
    weights: str | None = None
    base_overrides: Sequence[Any] = ()
    overrides: tuple[str, ...] = ()
    domain: str = LATENT
    distillation: DistillationOptions | None = None
    entry: str = ""
    finest_level: int = 0

    def run(self) -> Outcome:
        """Fit the bridge, train, check the model on an image, write it, and compare it.

        An interrupted training is continued. Of LEAST_IMAGES or more, some are kept aside for the
        report, which is written, too.

        Raises:
            CdlError, OSError: for unusable arguments, or an output folder with another model.
        """
        cfg, images = self.latent_config(), self._split_images()
        with conversion_folder(self.output, self._record(cfg), OUTPUT_FILES):
            read, weights = self.image_reader(cfg), self.rgb_weights(cfg)
            model = self.build(cfg)
            _load_rgb_weights(model, weights)
            explained, history, stage = None, [], find_replaced_stage(model)
            teacher = self._build_teacher(cfg, model) if images[0] or stage else None
            if self.domain == LATENT:
                run_stage = stage and _stage_runner(teacher, stage)
                explained = self._fit(cfg, model, map(read, images[1]), len(images[1]), run_stage)
            if self.distillation is not None:
                history = self._distil(cfg, model, teacher, images[1])
            check_prediction(model, read(images[1][0]))
            names = self.backend.class_names(cfg)
            outcome = Outcome(explained, history, images[0], read, names)
            if images[0]:
                outcome.compare(teacher, model).save(self.output)
            self.codec.copy_weights(self.output)
            write_text(self.output / CONFIG_FILE, self.written_config(cfg))
            # Not by a checkpointer: there is no training to resume.
            save_checkpoint(self.output / WEIGHTS_FILE, {"model": model.state_dict()})
        return outcome

    def finished_report(self) -> Report | None:
        """Return the report of the same conversion if the output folder has its result."""
        return read_finished_report(self.output, self._record(self.latent_config()))

    def _record(self, cfg: Config) -> dict[str, Any]:
        """Return what the result depends on, as JSON values."""
        return {
            "config": self.written_config(cfg),
            "weights": describe_file(self.rgb_weights(cfg)),
            "distillation": self.distillation and asdict(self.distillation),
            "images": describe_images(self.images),
        }

    def _split_images(self) -> tuple[list[Path], list[Path]]:
        """Return the files to keep aside, none of a few for a fit alone, and the others."""
        files = list(self.images)
        if self.distillation is None:
            if len(files) >= LEAST_IMAGES:
                return split_images(files)
            random.Random(0).shuffle(files)
            return [], files
        with with_advice("give --iterations 0 for the fit alone"):
            return split_images(list_images(files))

    def _fit(
        self,
        cfg: Config,
        model: nn.Module,
        samples: Iterator[Any],
        count: int,
        run_stage: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> float | None:
        """Fit the bridge; a transform module (MODEL.BRIDGE.KIND) is trained only."""
        explained = model.fit_bridge(samples, min(self.fit_images(cfg), count), run_stage)
        if explained is None and run_stage is None:
            raise CdlError(f"{self.rgb_weights(cfg)} are of a model that reads latents already")
        return explained

    def _build_teacher(self, cfg: Config, model: nn.Module) -> nn.Module:
        """Build the RGB model with its weights, on the device of the converted model."""
        teacher, weights = self.build_rgb_model(cfg).to(device_of(model)), self.rgb_weights(cfg)
        if weights:
            load_all_weights(teacher, weights)
        return teacher.eval()

    def _distil(
        self, cfg: Config, model: nn.Module, teacher: nn.Module, files: list[Path]
    ) -> list[dict[str, float]]:
        """Train a model to reproduce the RGB model, and return the validation losses."""
        order = model.coded_input.channel_order
        labels = proposal_labels(model, teacher)
        student, teacher = (_run_images(network, order) for network in (model, teacher))
        preprocessing = self.preprocessing(cfg, model)
        history = distil_on_images(
            *(student, teacher, preprocessing, files, self.distillation, self.output),
            labels=labels,
        )
        model.requires_grad_(False)
        return history

    @abstractmethod
    def latent_config(self) -> Config:
        """Return the RGB model's config, changed to read latents by a bridge.

        Raises:
            CdlError, FileNotFoundError: if it is missing, or of a model that cannot be converted.
        """

    @abstractmethod
    def build(self, cfg: Config) -> nn.Module:
        """Build the model of `latent_config` on the device to fit it on."""

    @abstractmethod
    def build_rgb_model(self, cfg: Config) -> nn.Module:
        """Build the RGB model, without weights unless `rgb_weights` has none."""

    @abstractmethod
    def preprocessing(self, cfg: Config, model: nn.Module) -> Preprocessing:
        """Return the sizes of images in a training, at which model and RGB model pad nothing."""

    @abstractmethod
    def rgb_weights(self, cfg: Config) -> str:
        """Return the full path or the URL of the RGB model's weights.

        They may be empty if `build` loads them.
        """

    @abstractmethod
    def fit_images(self, cfg: Config) -> int:
        """Return the number of images to fit the bridge to, if there are as many."""

    @abstractmethod
    def image_reader(self, cfg: Config) -> Reader:
        """Return the function from an image file to a sample, resized or cropped for evaluation."""

    @abstractmethod
    def written_config(self, cfg: Config) -> str:
        """Return the text of the converted model's config, which names its weights."""

    def find_weights(self, output_dir: str) -> str:
        """Return the full path or the URL of the RGB model's weights; empty if there are none.

        Args:
            output_dir: output folder of its training.
        """
        weights = self.weights or find_weights(self.config_file, output_dir)
        return weights if not weights or "://" in weights else str(Path(weights).absolute())


def check_names(names: Sequence[str], count: int) -> list[str]:
    """Return class names, which must be none or as many as the classes; else raise CdlError."""
    if count and names and len(names) != count:
        raise CdlError(f"{len(names)} class names for a model of {count} classes")
    return list(names)


def _load_rgb_weights(model: nn.Module, weights: str) -> None:
    """Load the RGB model's weights, if any, into all of a latent model but what is fitted.

    Raises:
        CdlError: if the weights do not hold every other entry.
    """
    if not weights:
        return
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(weights, checkpointables=[])
    check_bridged_weights(checkpointer)
    fitted = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, Bridge | LinearBridge | LatentTranslation)
    )
    missing = [
        key
        for key in model.state_dict()
        if key not in checkpointer.loaded
        and not key.startswith(fitted)
        and not key.endswith("num_batches_tracked")
    ]
    if missing:
        raise CdlError(
            f"{weights} lacks {len(missing)} entries of the model, such as "
            f"{missing[0]}: are they of this RGB model?"
        )


def _stage_runner(teacher: nn.Module, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from normalized images to the output of a module of an RGB model."""
    module = teacher.get_submodule(stage)
    return lambda pixels: run_to(module, lambda: teacher.backbone(pixels))[1]


def scaled_images(
    short_edge: int, max_size: int, model: nn.Module, multiples: Sequence[int] = (STRIDE, STRIDE)
) -> Preprocessing:
    """Return a Preprocessing of images for a model that normalizes their pixels itself.

    Args:
        short_edge: pixels to which the shorter side is resized in evaluation; 0 keeps the size.
        max_size: upper limit of the longer side.
        model: on latents or reconstructions.
        multiples: numbers of pixels of which height and width are multiples, besides the stride.
    """
    divisor = getattr(getattr(model, "backbone", None), "size_divisibility", 0)
    height, width = (max(side, divisor) for side in multiples)
    max_size = max_size if short_edge else 0
    return Preprocessing((0,) * 3, (1,) * 3, short_edge, max_size, multiples=(height, width))


def _run_images(model: nn.Module, channel_order: str) -> SampleNetwork:
    """Return a network that runs a model on images, without post-processing."""
    is_rcnn = isinstance(model, GeneralizedRCNN)
    predict = partial(model.inference, do_postprocess=False) if is_rcnn else None
    return SampleNetwork(model, channel_order, predict)
