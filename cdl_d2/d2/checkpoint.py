"""Checkpoints: written atomically, and read without running code of a pickle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from cdl_d2.codec.io.state_dicts import describe_mismatch, extract_state_dict, fit_names
from cdl_d2.codec.io.weights_file import (
    check_weights_file,
    read_file,
    read_weights,
    save_checkpoint,
)
from cdl_d2.d2.pickled_arrays import read_pickled_arrays
from cdl_d2.errors import CdlError
from cdl_d2.files import write_text
from cdl_d2.nn.bridge.linear_bridge import LinearBridge

TORCHVISION_ENTRY = "layer1.0.conv1.weight"  # of its ResNets, not of Detectron2's


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, safe against interruption and against hostile files.

    A checkpoint replaces its predecessor only when it is complete. `.pth` files are read with
    `weights_only`; `.pkl` files (Detectron2's model zoo) may contain arrays of numbers only.
    Weights of torchvision's ResNets are renamed for Detectron2's.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` and point `last_checkpoint` to it."""
        if not self.save_dir or not self.save_to_disk:
            return
        state = {"model": self.model.state_dict()}
        state |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        save_checkpoint(path, state | kwargs)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Point `last_checkpoint` to a file of the same folder."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load a file or URL into the model and the checkpointables.

        Raises:
            FileNotFoundError: if a local file does not exist.
            CdlError: if the file cannot be read or is corrupted, holds anything but arrays and
                plain values, or has infinite weights or NaN; or for a URL that cannot be fetched.
        """
        self.source = path
        if path and "://" not in path:
            check_weights_file(path.partition("?")[0])
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:
            raise CdlError(
                f"{path} cannot be downloaded ({error.reason}): fetch it elsewhere, and name the "
                "file as CONFIG:WEIGHTS on the command line, or as MODEL.WEIGHTS or "
                "MODEL.TEACHER.WEIGHTS in a config"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pyth"):
            raise CdlError(f"{filename}: files of pycls are not read; convert it to .pth")
        pickled = filename.endswith(".pkl")
        content = _read_zoo_file(filename) if pickled else super()._load_file(filename)
        state, names = extract_state_dict(content, filename), list(self.model.state_dict())
        if not state:
            raise CdlError(f"{filename} has no weights")
        resnet = fit_names(state, [TORCHVISION_ENTRY])
        if TORCHVISION_ENTRY in resnet and not any(TORCHVISION_ENTRY in key for key in names):
            renamed = {_detectron2_name(key): weight for key, weight in resnet.items()}
            return {"model": renamed, "matching_heuristics": True}
        return content | {"model": fit_names(state, names)}

    def _log_incompatible_keys(self, incompatible) -> None:
        """Log how many entries of the model the file has, and which are missing.

        Raises:
            CdlError: if it has none.
        """
        not_loaded = {key for key, *_ in incompatible.incorrect_shapes}.union(
            incompatible.missing_keys
        )
        names = [k for k in self.model.state_dict() if not k.endswith("num_batches_tracked")]
        self.loaded, total = {name for name in names if name not in not_loaded}, len(names)
        self.logger.info(f"{len(self.loaded)} of {total} entries of the model come from the file")
        if not self.loaded:
            raise CdlError("nothing in the weights fits this model: do they belong together?")
        fitted = [f"{n}." for n, m in self.model.named_modules() if isinstance(m, LinearBridge)]
        missing = [k for k in incompatible.missing_keys if not k.startswith(tuple(fitted))]
        incompatible.missing_keys[:] = missing  # a bridge is fitted next: no warning
        super()._log_incompatible_keys(incompatible)

    def _torch_load(self, f: str) -> dict[str, Any]:
        content = read_weights(f)
        is_wrapped = isinstance(content.get("model"), dict)
        return content if is_wrapped else {"model": extract_state_dict(content, f)}


def _read_zoo_file(path: str) -> dict[str, Any]:
    content = read_file(path, read_pickled_arrays)
    if not isinstance(content, dict):
        raise CdlError(f"{path} holds a {type(content).__name__}, not weights")
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # Caffe2: models of Detectron and ImageNet
    if isinstance(blobs, dict):
        blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _detectron2_name(name: str) -> str:
    """Rename an entry of torchvision's ResNet as Detectron2's convert-torchvision-to-d2.py does."""
    if name.startswith("fc."):
        return name
    name = name if name.startswith("layer") else f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def load_all_weights(model: nn.Module, path: str) -> None:
    """Load weights, which must contain every entry of the model in its shape.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if no file is named, or it does not hold every weight of the model.
    """
    if not path:
        raise CdlError("no weights: give MODEL.WEIGHTS")
    _StrictCheckpointer(model).load(path, checkpointables=[])


class _StrictCheckpointer(SafeCheckpointer):
    def _log_incompatible_keys(self, incompatible) -> None:
        selected = [k for k in incompatible.unexpected_keys if k.startswith("selection.")]
        if selected and getattr(self.model, "selection", None) is None:
            raise CdlError(
                "the weights are of a model that selects channels: set MODEL.SELECTION as it was "
                "trained"
            )
        reshaped = [
            f"{key} {tuple(file_shape)} instead of {tuple(shape)}"
            for key, file_shape, shape in incompatible.incorrect_shapes
        ]
        missing = [k for k in incompatible.missing_keys if not k.endswith("num_batches_tracked")]
        unknown = incompatible.unexpected_keys
        if missing or reshaped:
            raise CdlError(
                f"{self.source} does not fit this {type(self.model).__name__} "
                f"({describe_mismatch(missing, unknown, reshaped)}): "
                "do config and weights belong together?"
            )
        if unknown:
            self.logger.warning(
                f"{self.source}: {describe_mismatch([], unknown, [])}, and left out"
            )
