"""LazyConfigs, Detectron2's configs in Python, as configs of a trained model."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.config.instantiate import locate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.networks import UNTRAINED
from cdl_d2.d2.building import MISFITS
from cdl_d2.d2.detectron2_zoo import import_model_zoo
from cdl_d2.d2.lazy_text import TARGET, TEACHER, no_teacher, parse_lazy_config
from cdl_d2.data import Variant
from cdl_d2.errors import CdlError
from cdl_d2.yaml_text import is_lazy_config

CODEC_WEIGHTS = "model.coded_input.codec.weights"
CLASS_NAMES = "class_names"  # outermost key that a conversion adds
CLASS_COUNTS = ("roi_heads.num_classes", "num_classes", "sem_seg_head.num_classes")
RESIZING = "ResizeShortestEdge"
TEST_SIZE = (800, 1333)  # short edge and limit of the longer side, without a loader of test images
COMMON_OUTPUT = "output"
TEST_LOADER, TRAIN_LOADER = "dataloader.test", "dataloader.train"


def reject_lazy_config(path: Path) -> None:
    """Raise CdlError for a LazyConfig: a Python file, or the `config.yaml` of its training."""
    if is_lazy_config(path):
        raise CdlError(
            f"{path} is a LazyConfig, and a YAML config is expected: train it with "
            "`cdl run-script lazyconfig_train_net.py` (docs/tutorials/detectron2.md, LazyConfigs)"
        )


def run_lazy_config(path: Path) -> DictConfig:
    """Run a LazyConfig, a Python file, and return its values.

    Raises:
        CdlError: if it fails.
    """
    import_model_zoo()  # imported by LazyConfigs
    importing = builtins.__import__  # which Detectron2 does not put back after an error
    try:
        return LazyConfig.load(str(path))
    except Exception as error:  # whatever a Python file raises
        raise CdlError(f"{path} is no LazyConfig of a detector ({error!r})") from error
    finally:
        builtins.__import__ = importing


def read_lazy_config(path: Path) -> LazyModel:
    """Read a LazyConfig that a user names: run a Python file, or read a saved one as data.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it has no model, or one that may not be built.
    """
    if path.suffix == ".py":
        config = run_lazy_config(path)
        if not isinstance(config.get("model"), DictConfig) or TARGET not in config.model:
            raise CdlError(f"{path} is no LazyConfig of a detector: it has no `model`")
        if TEACHER in config.model:
            config.model[TEACHER] = no_teacher
        return LazyModel(path, config)
    try:
        config = parse_lazy_config(path.read_bytes())
    except CdlError as error:
        raise CdlError(f"LazyConfig {path}: {error}") from error
    weights = OmegaConf.select(config, CODEC_WEIGHTS)
    if isinstance(weights, str):
        choice = CodecChoice("", 0, weights=weights).beside(path.parent)
        OmegaConf.update(config, CODEC_WEIGHTS, choice.weights)
    return LazyModel(path, config)


@dataclass(frozen=True, eq=False)
class LazyModel:
    """Model of a LazyConfig, and what its other values tell of the model.

    Attributes:
        file: the LazyConfig.
        config: its values; `config.model` is instantiated.
    """

    file: Path
    config: DictConfig

    @property
    def architecture(self) -> type[nn.Module]:
        """Class of the model.

        Raises:
            CdlError: if `model` is built by a function.
        """
        target = self.config.model[TARGET]
        target = locate(target) if isinstance(target, str) else target
        if not isinstance(target, type) or not issubclass(target, nn.Module):
            raise CdlError(f"{self.file}: model is built by {target!r:.80}; expected a class")
        return target

    def build(self, device: str | torch.device = "cpu") -> nn.Module:
        """Build the model with random weights.

        Raises:
            CdlError: if its values do not fit.
        """
        return self._instantiate(self.config.model).to(device)

    def build_backbone(self) -> nn.Module:
        """Build the model's `backbone` alone, on the CPU; raise as `build`."""
        if "backbone" not in self.config.model:
            raise CdlError(f"{self.file}: model has no `backbone`")
        return self._instantiate(self.config.model.backbone)

    def _instantiate(self, node: DictConfig) -> nn.Module:
        try:
            return instantiate(node)
        except CdlError:
            raise
        except MISFITS as error:
            reason = " ".join(str(error).split())[:200]
            raise CdlError(f"LazyConfig {self.file}: {type(error).__name__}: {reason}") from error

    def with_untrained_codec(self) -> LazyModel:
        """Return a copy whose codec has random weights, to count and time it only."""
        config = self.config.copy()
        if OmegaConf.select(config, "model.coded_input.codec") is not None:
            config.model.coded_input.codec.weights = UNTRAINED
        return LazyModel(self.file, config)

    def rgb_version(self) -> LazyModel:
        """Return the config of the RGB model whose first convolution a `bridge` replaces.

        Raises:
            CdlError: if the model has no `bridge`.
        """
        config = self.config.copy()
        if "bridge" not in config.model:
            raise CdlError(f"{self.file}: model has no `bridge`, and no RGB model")
        networks = (kind for kind in self.architecture.__mro__ if issubclass(kind, nn.Module))
        config.model[TARGET] = next(kind for kind in networks if not hasattr(kind, "set_input"))
        for key in ("bridge", "coded_input", "selection", TEACHER, "transfer", "task_weight"):
            config.model.pop(key, None)
        return LazyModel(self.file, config)

    @property
    def output_dir(self) -> str:
        """Output folder of the training, unless it is that of all of Detectron2's configs."""
        folder = self._value("train.output_dir") or ""
        return folder if Path(folder) != Path(COMMON_OUTPUT) else ""

    @property
    def class_count(self) -> int:
        """Number of classes; 0 if the config does not tell."""
        counts = (OmegaConf.select(self.config.model, key) for key in CLASS_COUNTS)
        return next((count for count in counts if isinstance(count, int)), 0)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names that the config has, or else those of its data sets; empty if none fit."""
        names = self.config.get(CLASS_NAMES) or ()
        return tuple(names) if len(names) == self.class_count else self._registered_names()

    def _registered_names(self) -> tuple[str, ...]:
        for loader in (TRAIN_LOADER, TEST_LOADER):
            datasets = self._value(f"{loader}.dataset.names") or ()
            for dataset in [datasets] if isinstance(datasets, str) else datasets:
                names = MetadataCatalog.get(dataset).get("thing_classes", ())
                if names and len(names) == self.class_count:
                    return tuple(names)
        return ()

    @property
    def channel_order(self) -> str:
        """Order of channels that the loader of test images, or else the model, names; else BGR."""
        keys = (f"{TEST_LOADER}.mapper.image_format", "model.input_format")
        return next((order for order in map(self._value, keys) if order in ("BGR", "RGB")), "BGR")

    @property
    def test_variant(self) -> Variant:
        """Resizing of test images.

        Raises:
            CdlError: if the loader of test images changes them in another way.
        """
        augmentations = self._value(f"{TEST_LOADER}.mapper.augmentations")
        if augmentations is None:
            return Variant(*TEST_SIZE)
        variant = Variant(0)
        for node in augmentations:
            name = str(getattr(node.get(TARGET), "__name__", node.get(TARGET))).rpartition(".")[2]
            size = node.get("short_edge_length")
            sizes = list(size) if isinstance(size, (list, tuple, ListConfig)) else [size]
            if name != RESIZING or len(set(sizes)) != 1:
                raise CdlError(
                    f"{self.file}: {TEST_LOADER}.mapper has the augmentation {name} "
                    f"{size or ''}: expected {RESIZING} to one size"
                )
            variant = Variant(sizes[0], node.get("max_size", TEST_SIZE[1]))
        return variant

    def _value(self, key: str) -> Any:
        """Return a value of the config, None if it is missing."""
        return OmegaConf.select(self.config, key, throw_on_missing=False)
