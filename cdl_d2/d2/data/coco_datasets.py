"""COCO-format data sets given on the command line."""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

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
        CdlError: as read_coco, and if the name is taken.
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
    metadata = MetadataCatalog.get(name).set(thing_classes=class_names(content))
    lacks = [entry["id"] for entry in content["annotations"] if not entry.get("segmentation")]
    if lacks:
        metadata.set(without_mask=lacks[0])


def check_coco_dataset(cfg: CfgNode, name: str, num_classes: str) -> None:
    """Raise CdlError if a data set has other classes than the detector, or lacks the masks that it
    learns from.

    Args:
        num_classes: key of their number in MODEL.
    """
    metadata, heads = MetadataCatalog.get(name), attrgetter(num_classes)(cfg.MODEL)
    classes = metadata.get("thing_classes")
    if classes is not None and len(classes) != heads:
        raise CdlError(
            f"data set {name} has {len(classes)} classes: set MODEL.{num_classes} "
            f"{len(classes)} (it is {heads})"
        )
    lacks = metadata.get("without_mask")
    if lacks is None and metadata.get("evaluator_type") == "pascal_voc":
        lacks = "of any image"  # Detectron2 reads the boxes alone
    if cfg.MODEL.MASK_ON and lacks is not None and name in cfg.DATASETS.TRAIN:
        raise CdlError(
            f"data set {name} has no mask for annotation {lacks}: set MODEL.MASK_ON False, or add "
            "'segmentation'"
        )


def images_of_dataset(name: str) -> tuple[Path, list[str]]:
    """The deepest folder with all images of a Detectron2 data set, and their paths in it.

    Raises:
        CdlError: if the name is not known.
    """
    if name not in DatasetCatalog.list():
        raise CdlError(f"data set {name} is not one of {', '.join(DatasetCatalog.list())}")
    files = sorted({record["file_name"] for record in DatasetCatalog.get(name)})
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return folder, [Path(file).relative_to(folder).as_posix() for file in files]
