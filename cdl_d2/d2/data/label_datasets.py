"""Registration of data sets of images and label maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from cdl_d2.codec.io.image_files import find_images, open_image, read_image_size, read_label_map
from cdl_d2.errors import CdlError

IGNORED_LABEL = 255


def register_label_folder(name: str, images: str, labels: str) -> None:
    """Register a folder of images and one of label maps, PNG files of the same names.

    Labels are 8 bit, from 0; 255 is ignored. `classes.txt` beside the folder of labels has a class
    name per line; without it, classes are numbered.

    Raises:
        FileNotFoundError: if a folder does not exist.
        CdlError: if the name is taken, or an image has no label map.
    """
    register_labelled(name, labels, partial(find_label_pairs, images, labels), "sem_seg")


def register_labelled(
    name: str, labels: str, find: Callable[[], list[dict[str, Any]]], evaluator_type: str
) -> Metadata:
    """Register a data set that has label maps.

    Args:
        name: of the data set.
        labels: folder of the label maps.
        find: returns the records; called once now, for its errors.
        evaluator_type: how Detectron2 evaluates the data set.

    Raises:
        CdlError: if the name is taken.
    """
    if name in DatasetCatalog.list():
        raise CdlError(f"data set {name} is registered already: choose another name")
    try:
        find()
    except (FileNotFoundError, CdlError) as error:
        raise type(error)(f"data set {name}: {error}") from error
    DatasetCatalog.register(name, find)
    metadata = MetadataCatalog.get(name)
    metadata.set(evaluator_type=evaluator_type, ignore_label=IGNORED_LABEL)
    classes = Path(labels).parent / "classes.txt"
    if classes.is_file():
        names = [
            line.strip()
            for line in classes.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        metadata.set(stuff_classes=names)
    return metadata


def find_label_pairs(images: str, labels: str) -> list[dict[str, Any]]:
    """List records of all images under a folder and their label maps.

    Raises:
        FileNotFoundError: if a folder does not exist.
        CdlError: if there are no images, or one has no label map of 8 bits and its size.
    """
    for folder in (images, labels):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
    records = []
    for path in find_images(Path(images)):
        label = (Path(labels) / path.relative_to(images)).with_suffix(".png")
        if not label.is_file():
            raise CdlError(f"image {path} has no label map {label}")
        _check_label(path, label)
        records.append({"file_name": str(path), "sem_seg_file_name": str(label)})
    return records


def _check_label(image: Path, label: Path) -> None:
    """Check a label map's header; readers treat palettes and 16 bits differently."""
    with open_image(label) as file:
        mode, size = file.mode, file.size
    expected = read_image_size(image)[::-1]
    if mode != "L" or size != expected:
        raise CdlError(
            f"label map {label} has mode {mode} and {size} pixels: expected 8 bit gray (L) and "
            f"{expected}, the image's"
        )


def load_labels(path: str, dtype: type, classes: int, ignored: int) -> np.ndarray:
    """Read a label map, H x W, for an evaluator.

    Raises:
        CdlError: for a label that is neither a class nor the one to ignore.
    """
    labels = read_label_map(path).astype(dtype)
    wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise CdlError(
            f"label {wrong[0]} of {path} is neither in 0..{classes - 1} nor the label to ignore "
            f"({ignored}): name all classes in classes.txt"
        )
    return labels


def check_label_dataset(cfg: CfgNode, name: str) -> None:
    """Raise CdlError unless a data set has label maps for the head's number of classes."""
    if "sem_seg" not in (MetadataCatalog.get(name).get("evaluator_type") or ""):
        raise CdlError(
            f"data set {name} has no label maps, as segmentation needs: register one by "
            f"--register-labels {name} IMAGE_DIR LABEL_DIR"
        )
    check_labels(cfg, name)


def check_labels(cfg: CfgNode, name: str) -> None:
    """Raise CdlError unless the labels of a data set fit the head."""
    metadata = MetadataCatalog.get(name)
    ignored = metadata.get("ignore_label")
    if ignored != cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE:
        raise CdlError(
            f"data set {name} ignores label {ignored}: set MODEL.SEM_SEG_HEAD.IGNORE_VALUE "
            f"{ignored} (it is {cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE})"
        )
    count, classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, metadata.get("stuff_classes")
    if classes is None:
        metadata.set(stuff_classes=[str(i) for i in range(count)])
    elif len(classes) != count:
        raise CdlError(
            f"data set {name} has {len(classes)} classes: set MODEL.SEM_SEG_HEAD.NUM_CLASSES "
            f"{len(classes)} (it is {count})"
        )
