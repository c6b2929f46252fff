"""COCO-format data sets given on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

# The first dozen images of COCO's validation set, to see whether a model can learn them by heart.
DOZEN = "coco_2017_val_first12"
if DOZEN not in DatasetCatalog.list():
    DatasetCatalog.register(DOZEN, lambda: DatasetCatalog.get("coco_2017_val")[:12])
    MetadataCatalog.get(DOZEN).set(
        evaluator_type="coco", thing_classes=[c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    )


def register_dataset(name: str, annotations: str, images: str) -> None:
    """Make a COCO-format data set known under a name that configs can use.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        ValueError: if the file is not COCO-format JSON, or the name is taken.
    """
    path = Path(annotations)
    if not path.is_file():
        raise FileNotFoundError(f"data set {name}: there is no annotation file {annotations}")
    if not Path(images).is_dir():
        raise FileNotFoundError(f"data set {name}: there is no image folder {images}")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"data set {name}: {annotations} is not JSON ({error})") from error
    _check_coco(name, annotations, content)
    if name in DatasetCatalog.list():
        raise ValueError(f"data set {name} is registered already: choose another name")
    register_coco_instances(name, {}, annotations, images)
    names = [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]
    MetadataCatalog.get(name).set(thing_classes=names)


def _check_coco(name: str, path: str, content: object) -> None:
    expected = {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}
    for part, keys in expected.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f"data set {name}: {path} is JSON but not COCO format: no list {part}")
        if not entries and part != "annotations":
            raise ValueError(f"data set {name}: {path} has no {part}")
        for entry in entries:
            for key in keys:
                if key not in entry:
                    raise ValueError(f"data set {name}: {path} has {part} without {key!r}: {entry}")


def check_datasets(cfg: CfgNode) -> None:
    """Raise ValueError if a data set is not known, or has other classes than the detector."""
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}:
        if name not in DatasetCatalog.list():
            raise ValueError(
                f"data set {name} is not known: register it with --register {name} "
                "ANNOTATIONS.json IMAGE_DIR"
            )
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise ValueError(
                f"data set {name} has {len(classes)} classes: set MODEL.ROI_HEADS.NUM_CLASSES "
                f"{len(classes)} (it is {cfg.MODEL.ROI_HEADS.NUM_CLASSES})"
            )


def images_of_dataset(name: str) -> tuple[Path, list[str]]:
    """The deepest folder with all images of a Detectron2 data set, and their paths in it.

    Raises:
        ValueError: if the name is not known.
    """
    if name not in DatasetCatalog.list():
        raise ValueError(f"data set {name} is not one of {', '.join(DatasetCatalog.list())}")
    files = sorted({record["file_name"] for record in DatasetCatalog.get(name)})
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return folder, [Path(file).relative_to(folder).as_posix() for file in files]
