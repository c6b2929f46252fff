"""COCO-format data sets given on the command line."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from cdl_d2.d2.data.class_datasets import class_names_of
from cdl_d2.d2.data.label_datasets import check_label_dataset, is_segmentation
from cdl_d2.d2.modeling.meta_arch.classifier import is_classification
from cdl_d2.data.datasets.coco import class_names, read_coco
from cdl_d2.errors import CdlError

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
        ValueError: as read_coco, and if the name is taken.
    """
    if not Path(images).is_dir():
        raise FileNotFoundError(f"data set {name}: there is no image folder {images}")
    try:
        content = read_coco(annotations)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"data set {name}: {error}") from error
    if name in DatasetCatalog.list():
        raise CdlError(f"data set {name} is registered already: choose another name")
    register_coco_instances(name, {}, annotations, images)
    MetadataCatalog.get(name).set(thing_classes=class_names(content))


def check_datasets(cfg: CfgNode) -> None:
    """Raise ValueError if a data set is not known, or has other classes than the detector."""
    for name in {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}:
        if name not in DatasetCatalog.list():
            raise CdlError(
                f"data set {name} is not known: register it with --register {name} "
                f"ANNOTATIONS.json IMAGE_DIR, or --register-classes {name} FOLDER"
            )
        if is_segmentation(cfg):
            check_label_dataset(cfg, name)
            continue
        if is_classification(cfg):
            _check_classes(cfg, name)
            continue
        classes = MetadataCatalog.get(name).get("thing_classes")
        if classes is not None and len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise CdlError(
                f"data set {name} has {len(classes)} classes: set MODEL.ROI_HEADS.NUM_CLASSES "
                f"{len(classes)} (it is {cfg.MODEL.ROI_HEADS.NUM_CLASSES})"
            )


def _check_classes(cfg: CfgNode, name: str) -> None:
    """Labels are places among the sorted names, so that all data sets must have the same ones."""
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


def images_of_dataset(name: str) -> tuple[Path, list[str]]:
    """The deepest folder with all images of a Detectron2 data set, and their paths in it.

    Raises:
        ValueError: if the name is not known.
    """
    if name not in DatasetCatalog.list():
        raise CdlError(f"data set {name} is not one of {', '.join(DatasetCatalog.list())}")
    files = sorted({record["file_name"] for record in DatasetCatalog.get(name)})
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return folder, [Path(file).relative_to(folder).as_posix() for file in files]
