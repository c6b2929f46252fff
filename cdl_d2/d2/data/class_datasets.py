"""Registration of data sets of image classification."""

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
    """Register a folder with a sub-folder per class, or a list of their images.

    Raises:
        FileNotFoundError: if it does not exist.
        CdlError: if the name is taken, or there are no images.
    """
    if name in DatasetCatalog.list():
        raise CdlError(f"data set {name} is registered already: choose another name")
    find_labelled_images(folder)
    _register(name, folder)


def class_names_of(name: str) -> list[str]:
    """Return the class names of a data set.

    Raises:
        FileNotFoundError, CdlError: if it is no data set of image classification.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != EVALUATOR_TYPE:
        raise CdlError(
            f"data set {name} is no folder of classes, as a classifier needs: register one by "
            f"--register-classes {name} FOLDER"
        )
    return find_classes(metadata.folder)


def check_class_dataset(cfg: CfgNode, name: str) -> None:
    """Raise CdlError unless a data set has the classes of the classifier and all other data sets.

    Labels are indices of the sorted names.
    """
    classes, count = class_names_of(name), cfg.MODEL.CLASSIFIER.NUM_CLASSES
    if len(classes) != count:
        raise CdlError(
            f"data set {name} has {len(classes)} classes, but the head has {count} outputs: set "
            f"MODEL.CLASSIFIER.NUM_CLASSES {len(classes)}"
        )
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if dataset in DatasetCatalog.list() and class_names_of(dataset) != classes:
            different = sorted(set(classes) ^ set(class_names_of(dataset)))
            raise CdlError(
                f"data sets {name} and {dataset} have different classes ({', '.join(different)}), "
                "so that their labels differ"
            )


def _register(name: str, folder: str) -> None:
    def load() -> list[dict[str, Any]]:
        return [
            {"file_name": str(path), "label": label, "image_id": i}
            for i, (path, label) in enumerate(find_labelled_images(folder))
        ]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(evaluator_type=EVALUATOR_TYPE, folder=str(folder))


# Paths of data sets in the folder DETECTRON2_DATASETS; they are read when they are used.
BUILTIN_PATHS = {
    f"{name}_{part}": f"{name}/{part}"
    for name in ("imagenet", "resisc45", "rsscn7")
    for part in ("train", "val")
}
BUILTIN_PATHS |= {  # the first of MINC-2500's five splits
    f"minc2500_{part}": f"minc-2500/labels/{file}1.txt"
    for part, file in (("train", "train"), ("val", "validate"), ("test", "test"))
}
for dataset_name, path in BUILTIN_PATHS.items():
    if dataset_name not in DatasetCatalog.list():
        _register(dataset_name, str(Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / path))
