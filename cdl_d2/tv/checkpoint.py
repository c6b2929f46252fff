"""Detectors on disk, weights and config together, read without unpickling objects."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdl_d2.codec.io.state_dicts import fit_names, load_into, state_dict_in
from cdl_d2.codec.io.weights_file import read_weights, save_checkpoint
from cdl_d2.errors import CdlError
from cdl_d2.tv.compressed_mask_rcnn import CompressedMaskRCNN
from cdl_d2.tv.detector_config import DetectorConfig, build_detector

TORCHVISION_ZOO = "coco"  # torchvision's Mask R-CNN R50-FPN, trained on COCO


def save_detector(
    path: str | Path, config: DetectorConfig, state: dict[str, torch.Tensor], **more: Any
) -> None:
    """Write a detector, and what else is given, so that no partial file is ever left."""
    save_checkpoint(path, {"config": asdict(config), "model": state, **more})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a file of save_detector, its `config` a DetectorConfig.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is damaged or something else.
    """
    return _with_config(read_weights(path), path)


def load_detector(path: str | Path) -> tuple[CompressedMaskRCNN, DetectorConfig]:
    """A detector with its weights, in eval mode.

    Raises:
        FileNotFoundError, CdlError: as read_checkpoint, or if weights and config do not fit.
    """
    content = read_checkpoint(path)
    detector = build_detector(content["config"])
    load_all(detector, content["model"], str(path))
    return detector.eval(), content["config"]


def load_pixel_detector(source: str) -> tuple[CompressedMaskRCNN, DetectorConfig]:
    """A detector on original images: from a checkpoint, or with weights of torchvision's zoo.

    Args:
        source: a checkpoint of `cdl train-torchvision`; or `coco` for the zoo's weights, downloaded
            and checked; or a local file of those.

    Raises:
        FileNotFoundError, CdlError: as load_detector, or if it does not look at images.
    """
    config, state = _read(source)
    if config.domain != "image":
        raise CdlError(f"{source} looks at domain {config.domain!r}, not at original images")
    detector = build_detector(config)
    load_all(detector, state, source)
    return detector.eval(), config


def keep_classes(
    detector: CompressedMaskRCNN, config: DetectorConfig, classes: tuple[str, ...]
) -> DetectorConfig:
    """Leave a detector's outputs for some of its classes, in that order.

    Returns:
        the config of what is left.

    Raises:
        CdlError: if the detector does not know one of the classes.
    """
    if tuple(classes) == config.classes:
        return config
    unknown = [name for name in classes if name not in config.classes]
    if unknown:
        raise CdlError(
            f"the teacher does not know the class {unknown[0]!r}; it knows "
            f"{len(config.classes)}: {', '.join(config.classes[:10])}"
        )
    rows = torch.tensor([0, *(1 + config.classes.index(name) for name in classes)])
    heads = detector.roi_heads
    _keep_rows(heads.box_predictor.cls_score, rows)
    _keep_rows(heads.box_predictor.bbox_pred, (4 * rows[:, None] + torch.arange(4)).flatten())
    if detector.has_masks:
        _keep_rows(heads.mask_predictor.mask_fcn_logits, rows)
    return config.with_classes(classes)


def check_teacher(student: DetectorConfig, teacher: DetectorConfig) -> None:
    """Raise CdlError unless outputs and features of the two can be compared."""
    for name in ("anchor_sizes", "channels"):
        ours, theirs = (getattr(c.architecture, name) for c in (student, teacher))
        if ours != theirs:
            raise CdlError(f"{name} is {ours} for the student but {theirs} for the teacher")
    if student.architecture.masks and not teacher.architecture.masks:
        raise CdlError("the teacher finds no masks: give --boxes-only for the student, too")


def load_initial_weights(detector: CompressedMaskRCNN, source: str) -> int:
    """Start from another detector's entries where names and shapes agree; how many did.

    A pyramid that begins at P3 takes the last levels of one that begins at P2.

    Raises:
        FileNotFoundError, CdlError: if the file cannot be read or nothing in it fits.
    """
    own = detector.state_dict()
    state = fit_names(_read(source)[1], own)
    ours, theirs = (_pyramid_levels(each) for each in (own, state))
    for kind in ("inner", "layer"):  # numbered from the finest level on
        blocks = {k: v for k, v in state.items() if k.startswith(f"backbone.fpn.{kind}_blocks.")}
        state = {k: v for k, v in state.items() if k not in blocks}
        for key, value in blocks.items():
            parts = key.split(".")
            parts[3] = str(int(parts[3]) - theirs + ours)
            state[".".join(parts)] = value
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise CdlError(f"nothing in {source} fits this detector")
    detector.load_state_dict(fitting, strict=False)
    return len(fitting)


def _pyramid_levels(state: dict[str, torch.Tensor]) -> int:
    return len({key.split(".")[3] for key in state if key.startswith("backbone.fpn.inner_blocks.")})


def load_all(detector: nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Load weights and insist that they are those of this detector, see load_into.

    Raises:
        CdlError: if entries are missing, left over or of another shape, or of another codec.
    """
    load_into(detector, state, source)


def _keep_rows(layer: nn.Linear | nn.Conv2d, rows: torch.Tensor) -> None:
    for name, parameter in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(parameter.data[rows].clone()))


def _read(source: str) -> tuple[DetectorConfig, dict[str, torch.Tensor]]:
    """Config and weights; see load_pixel_detector for the sources."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights as Weights

    weights = Weights.COCO_V1
    if source == TORCHVISION_ZOO:
        content = weights.get_state_dict(progress=True, check_hash=True)
    else:
        content = read_weights(source)
    if "config" in content:
        content = _with_config(content, source)
        return content["config"], content["model"]
    classes = tuple(weights.meta["categories"][1:])
    return DetectorConfig(classes, "image"), state_dict_in(content, source)


def _with_config(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("model"), dict):
        raise CdlError(f"{path} is no checkpoint of a detector: it has no config, or no weights")
    state = state_dict_in({"model": content["model"]}, path)
    try:
        config = DetectorConfig.from_dict(content["config"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:  # or of a tensor's truth
        raise CdlError(f"{path} has a config that cannot be used: {error!r}") from error
    return content | {"config": config, "model": state}
