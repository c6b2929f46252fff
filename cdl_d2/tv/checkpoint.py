"""Checkpoints of detectors: weights and config in one file, read without unpickling objects."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdl_d2.codec.io.state_dicts import extract_state_dict, fit_names, load_into
from cdl_d2.codec.io.weights_file import read_weights, save_checkpoint
from cdl_d2.errors import CdlError
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN
from cdl_d2.tv.detector_config import DetectorConfig, build_detector

TORCHVISION_ZOO = "coco"  # torchvision's Mask R-CNN R50-FPN with COCO weights


def save_detector(
    path: str | Path, config: DetectorConfig, state: dict[str, torch.Tensor], **content: Any
) -> None:
    """Write a detector and further content to a file, atomically."""
    save_checkpoint(path, {"config": asdict(config), "model": state, **content})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a file of `save_detector`, its `config` a DetectorConfig.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is corrupted, or not a detector's checkpoint.
    """
    return _with_config(read_weights(path), path)


def load_detector(
    path: str | Path, content: dict[str, Any] | None = None
) -> tuple[CompressedMaskRCNN, DetectorConfig]:
    """Load a detector with its weights, in eval mode; `content` is that of read_checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is not a detector's checkpoint, or weights and config do not fit.
    """
    content = content or read_checkpoint(path)
    config = content["config"]
    if config.codec:
        config = replace(config, codec=config.codec.beside(Path(path).parent))
    detector = build_detector(config)
    load_into(detector, content["model"], str(path))
    return detector.eval(), config


def load_rgb_detector(source: str) -> tuple[CompressedMaskRCNN, DetectorConfig]:
    """Load a detector on original images, in eval mode.

    Args:
        source: a detector's checkpoint; `coco` for torchvision's weights, downloaded and checked;
            or a file of those weights.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it cannot be loaded, or its input is not original images.
    """
    content = _read(source)
    if content["config"].domain != "image":
        raise CdlError(f"{source} has the domain {content['config'].domain!r}; 'image' is needed")
    return load_detector(source, content)


def keep_classes(
    detector: CompressedMaskRCNN, config: DetectorConfig, classes: tuple[str, ...]
) -> DetectorConfig:
    """Reduce a detector's outputs to some of its classes, in the given order.

    Returns:
        the config of the reduced detector.

    Raises:
        CdlError: if the detector lacks one of the classes.
    """
    if tuple(classes) == config.classes:
        return config
    unknown = [name for name in classes if name not in config.classes]
    if unknown:
        raise CdlError(
            f"the teacher lacks the class {unknown[0]!r}; it has {len(config.classes)}: "
            f"{', '.join(config.classes[:10])}"
        )
    rows = torch.tensor([0, *(1 + config.classes.index(name) for name in classes)])
    heads = detector.roi_heads
    _keep_rows(heads.box_predictor.cls_score, rows)
    _keep_rows(heads.box_predictor.bbox_pred, (4 * rows[:, None] + torch.arange(4)).flatten())
    if detector.has_masks:
        _keep_rows(heads.mask_predictor.mask_fcn_logits, rows)
    return replace(config, classes=tuple(classes))


def check_teacher(student: DetectorConfig, teacher: DetectorConfig) -> None:
    """Raise CdlError unless outputs and features of student and teacher can be compared."""
    for name in ("anchor_sizes", "channels"):
        values = [getattr(config.architecture, name) for config in (student, teacher)]
        if values[0] != values[1]:
            raise CdlError(f"{name} is {values[0]} for the student but {values[1]} for the teacher")
    if student.architecture.masks and not teacher.architecture.masks:
        raise CdlError("the teacher predicts no masks: take a student of boxes only, too")


def load_initial_weights(detector: CompressedMaskRCNN, source: str) -> int:
    """Load the entries of another detector whose names and shapes fit, and return their number.

    A pyramid from P3 takes the last levels of a pyramid from P2.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it cannot be read, or nothing in it fits.
    """
    own = detector.state_dict()
    state = fit_names(_read(source)["model"], own)
    shift = _count_pyramid_levels(own) - _count_pyramid_levels(state)
    for kind in ("inner", "layer"):  # numbered from the finest level on
        blocks = {k: v for k, v in state.items() if k.startswith(f"backbone.fpn.{kind}_blocks.")}
        state = {k: v for k, v in state.items() if k not in blocks}
        for key, value in blocks.items():
            parts = key.split(".")
            parts[3] = str(int(parts[3]) + shift)
            state[".".join(parts)] = value
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise CdlError(f"nothing in {source} fits this detector")
    detector.load_state_dict(fitting, strict=False)
    return len(fitting)


def _count_pyramid_levels(state: dict[str, torch.Tensor]) -> int:
    return len({key.split(".")[3] for key in state if key.startswith("backbone.fpn.inner_blocks.")})


def _keep_rows(layer: nn.Linear | nn.Conv2d, rows: torch.Tensor) -> None:
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(parameter.data[rows].clone()))


def _read(source: str) -> dict[str, Any]:
    """Return `config` and `model`, the weights, of a source as load_rgb_detector takes it."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights as Weights

    weights = Weights.COCO_V1
    if source == TORCHVISION_ZOO:
        content = weights.get_state_dict(progress=True, check_hash=True)
    else:
        content = read_weights(source)
    if "config" in content:
        return _with_config(content, source)
    config = DetectorConfig(tuple(weights.meta["categories"][1:]), "image")
    return {"config": config, "model": extract_state_dict(content, source)}


def _with_config(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("model"), dict):
        raise CdlError(f"{path} is not a detector's checkpoint: it lacks config or weights")
    state = extract_state_dict({"model": content["model"]}, path)
    try:
        config = DetectorConfig.from_dict(content["config"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:  # RuntimeError: a tensor
        raise CdlError(f"{path} has an unusable config: {error!r}") from error
    return content | {"config": config, "model": state}
