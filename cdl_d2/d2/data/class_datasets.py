"""Folders of classes, and lists of images, in Detectron2's catalog."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.errors import CdlError

EVALUATOR_TYPE = "classification"


def register_class_folder(name: str, folder: str) -> None:
    """Make a folder of classes, or a list of their images (see find_labelled_images), known under a
    name that configs can use.

    Raises:
        FileNotFoundError, CdlError: as find_labelled_images; CdlError if the name is taken.
    """
    if name in DatasetCatalog.list():
        raise CdlError(f"data set {name} is registered already: choose another name")
    find_labelled_images(folder)
    _register(name, folder)


def class_names_of(name: str) -> list[str]:
    """The classes of a data set.

    Raises:
        FileNotFoundError, CdlError: if it is no folder of classes.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != EVALUATOR_TYPE:
        raise CdlError(
            f"data set {name} is no folder of classes, which a classifier needs: register one with "
            f"--register-classes {name} FOLDER"
        )
    return find_classes(metadata.folder)


def check_class_dataset(cfg: CfgNode, name: str) -> None:
    """Raise CdlError unless a data set has the classifier's number of classes, and those of all
    other data sets: labels are places among the sorted names."""
    known, heads = class_names_of(name), cfg.MODEL.CLASSIFIER.NUM_CLASSES
    if len(known) != heads:
        raise CdlError(
            f"data set {name} has {len(known)} classes, but the head has {heads} outputs: set "
            f"MODEL.CLASSIFIER.NUM_CLASSES {len(known)}"
        )
    for other in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if other in DatasetCatalog.list() and class_names_of(other) != known:
            different = sorted(set(known) ^ set(class_names_of(other)))
            raise CdlError(
                f"data sets {name} and {other} have different classes ({', '.join(different)}): "
                "their labels would not mean the same"
            )


def _register(name: str, folder: str) -> None:
    def load() -> list[dict[str, Any]]:
        found = find_labelled_images(folder)
        return [
            {"file_name": str(path), "label": label, "image_id": i}
            for i, (path, label) in enumerate(found)
        ]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(evaluator_type=EVALUATOR_TYPE, folder=str(folder))


# Where data sets lie in the folder DETECTRON2_DATASETS; they are read when they are asked for.
KNOWN = {
    f"{name}_{part}": f"{name}/{part}"
    for name in ("imagenet", "resisc45", "rsscn7")
    for part in ("train", "val")
}
KNOWN |= {  # the first of MINC-2500's five splits
    f"minc2500_{part}": f"minc-2500/labels/{file}1.txt"
    for part, file in (("train", "train"), ("val", "validate"), ("test", "test"))
}
for known, place in KNOWN.items():
    if known not in DatasetCatalog.list():
        _register(known, str(Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / place))
