"""Registration and checks of COCO-format data sets."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg, register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

from cdl_d2.d2.data.checked_records import check_records
from cdl_d2.d2.model_input import ModelTraits
from cdl_d2.data.datasets.coco import PARTS, check_coco, class_names, has_masks
from cdl_d2.data.datasets.coco_images import require_image_files
from cdl_d2.data.datasets.coco_keypoints import keypoint_names
from cdl_d2.data.datasets.sides import pair_sides
from cdl_d2.errors import CdlError

# The first dozen images of COCO's validation set, to test whether a model can overfit them.
DOZEN, WHOLE = "coco_2017_val_first12", "coco_2017_val"
if DOZEN not in DatasetCatalog.list():
    DatasetCatalog.register(DOZEN, lambda: DatasetCatalog.get(WHOLE)[:12])
    MetadataCatalog.get(DOZEN).set(
        evaluator_type="coco", thing_classes=[c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    )


def register_dataset(name: str, annotations: str, images: str) -> None:
    """Register a COCO-format data set, with names of keypoints and their left and right pairs.

    Raises:
        FileNotFoundError: if the annotation file or the image folder does not exist.
        CdlError: if the name is taken, or the annotations cannot be read.
    """
    if not Path(images).is_dir():
        raise FileNotFoundError(f"data set {name}: there is no image folder {images}")
    if name in DatasetCatalog.list():
        raise CdlError(f"data set {name} is registered already: choose another name")
    register_coco_instances(name, {}, annotations, images)
    try:
        content = normalize_dataset(name, PARTS)
    except (FileNotFoundError, ValueError):
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
        raise
    points = keypoint_names(content)
    flips = {"keypoint_names": points, "keypoint_flip_map": pair_sides(points)} if points else {}
    MetadataCatalog.get(name).set(thing_classes=class_names(content), **flips)


def normalize_dataset(
    name: str, parts: Sequence[str] = ("images", "categories")
) -> dict[str, Any] | None:
    """Check the annotations of a COCO-format data set, and replace them by their normal form.

    In its metadata, `json_file` becomes a file in normal form if the original is not; `file_names`
    are its images, `with_masks` is True if an object has a mask, and `with_rle` is the id of the
    first object to train on whose mask is an RLE.

    Args:
        name: of the data set.
        parts: keys that the file must have.

    Returns:
        the annotations; None for another format, or if they were checked before.

    Raises:
        FileNotFoundError, CdlError: if they cannot be read.
    """
    before = MetadataCatalog.get(name).as_dict()
    file, folder = before.get("json_file"), before.get("image_root")
    if before.get("evaluator_type") not in LOADERS or not file or "file_names" in before:
        return None
    try:
        content, repaired = check_coco(file, parts, folder)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"data set {name}: {error}") from error
    after = {
        "file_names": [os.path.join(folder, image["file_name"]) for image in content["images"]],
        "with_masks": has_masks(content),
        "with_rle": _first_rle(content),
    }
    if repaired:
        after["json_file"] = _write_json(content)
        load = partial(LOADERS[before["evaluator_type"]], name, before | after)
        DatasetCatalog.pop(name)
        DatasetCatalog.register(name, load)
        MetadataCatalog.pop(name)
    MetadataCatalog.get(name).set(**before | after)
    return content


def check_coco_dataset(cfg: CfgNode, name: str, num_classes: str) -> None:
    """Raise CdlError if a data set does not fit the detector.

    The reasons are invalid objects, another number of classes or keypoints, missing masks or
    missing images.

    Args:
        cfg: config of the detector.
        name: of the data set.
        num_classes: key in MODEL of the number of classes.

    Raises:
        FileNotFoundError: if the annotation file does not exist.
    """
    try:
        normalize_dataset(WHOLE if name == DOZEN else name)
    except FileNotFoundError as error:  # not registered by --register
        raise FileNotFoundError(
            f"{error}: put it there, or name data sets of yours in DATASETS.TRAIN and DATASETS.TEST"
        ) from error
    metadata, count = MetadataCatalog.get(name), attrgetter(num_classes)(cfg.MODEL)
    classes = metadata.get("thing_classes")
    if classes is not None and len(classes) != count:
        raise CdlError(
            f"data set {name} has {len(classes)} classes: set MODEL.{num_classes} "
            f"{len(classes)} (it is {count})"
        )
    boxes_only = (
        metadata.get("with_masks") is False or metadata.get("evaluator_type") == "pascal_voc"
    )
    if cfg.MODEL.MASK_ON and boxes_only and name in cfg.DATASETS.TRAIN:
        raise CdlError(
            f"data set {name} has no mask for any object: set MODEL.MASK_ON False, or add "
            "'segmentation'"
        )
    _check_mask_format(cfg, name)
    _check_keypoints(cfg, name)
    files = metadata.get("file_names") or check_records(name)
    from_store = cfg.INPUT.DOMAIN == "latent" and cfg.INPUT.LATENT_SOURCE == "store"
    if not from_store or ModelTraits.from_config(cfg).needs_image:
        require_image_files(map(Path, files), f"data set {name}")


def _check_mask_format(cfg: CfgNode, name: str) -> None:
    first = MetadataCatalog.get(name).get("with_rle")
    learned = cfg.MODEL.MASK_ON and name in cfg.DATASETS.TRAIN
    if learned and first is not None and cfg.INPUT.MASK_FORMAT == "polygon":
        raise CdlError(
            f"data set {name} has an RLE, not polygons, in annotation {first}: set "
            "INPUT.MASK_FORMAT bitmask"
        )


def _check_keypoints(cfg: CfgNode, name: str) -> None:
    if not cfg.MODEL.KEYPOINT_ON or name not in cfg.DATASETS.TRAIN:
        return
    names = MetadataCatalog.get(name).get("keypoint_names")
    if not names:
        raise CdlError(
            f"data set {name} has no names of keypoints: its categories need 'keypoints', or set "
            "MODEL.KEYPOINT_ON False"
        )
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if len(names) != count:
        raise CdlError(
            f"data set {name} has {len(names)} keypoints: set "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(names)} (it is {count})"
        )


def images_of_dataset(name: str) -> tuple[Path, list[str]]:
    """Return the deepest folder with all images of a data set, and their paths in it.

    Raises:
        CdlError: if the data set is not registered.
    """
    if name not in DatasetCatalog.list():
        raise CdlError(f"data set {name} is not one of {', '.join(DatasetCatalog.list())}")
    normalize_dataset(name)
    files = sorted({record["file_name"] for record in DatasetCatalog.get(name)})
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return folder, [Path(file).relative_to(folder).as_posix() for file in files]


def _first_rle(content: dict[str, Any]) -> int | None:
    """Return the id of the first object to train on whose mask is an RLE."""
    objects = (record for record in content.get("annotations", ()) if not record["iscrowd"])
    return next((o["id"] for o in objects if isinstance(o.get("segmentation"), dict)), None)


def _load_instances(name: str, metadata: dict[str, Any]) -> list[dict[str, Any]]:
    return load_coco_json(metadata["json_file"], metadata["image_root"], name)


def _load_panoptic(name: str, metadata: dict[str, Any]) -> list[dict[str, Any]]:
    labels = load_sem_seg(metadata["sem_seg_root"], metadata["image_root"])
    return merge_to_panoptic(_load_instances(name, metadata), labels)


LOADERS = {  # by `evaluator_type`: from name and metadata to records
    "coco": _load_instances,
    "coco_panoptic_seg": _load_panoptic,
}


def _write_json(content: dict[str, Any]) -> str:
    """Write a file that is removed when the process ends, and return its path."""
    handle, path = tempfile.mkstemp(suffix=".json", dir=_temporary_folder().name)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return path


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="cdl_annotations_")
