"""Registration of data sets with label maps and yes-or-no attributes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from cdl_d2.d2.data.label_datasets import check_labels, find_label_pairs, register_labelled
from cdl_d2.data.datasets.attributes import read_attributes
from cdl_d2.errors import CdlError

EVALUATOR_TYPE = "multitask"


def register_multitask(name: str, images: str, labels: str, attributes: str) -> None:
    """Register a folder of images, one of label maps and a table of attributes.

    Records have `attributes`, K zeros and ones, whose names are in the metadata. Label maps are
    those of register_label_folder.

    Args:
        name: of the data set.
        images: folder of images.
        labels: folder of label maps.
        attributes: CSV file with a row per image and a column per attribute.

    Raises:
        FileNotFoundError: if a folder or file does not exist.
        CdlError: if the name is taken, or an image has no row or label map, or a row no image.
    """
    find = partial(_find_records, images, labels, attributes)
    metadata = register_labelled(name, labels, find, EVALUATOR_TYPE)
    metadata.set(attributes=list(read_attributes(attributes).names))


def check_multitask_dataset(cfg: CfgNode, name: str) -> None:
    """Raise CdlError unless a data set fits the heads and has the attributes of all others."""
    names = _attributes_of(name)
    if names is None:
        raise CdlError(
            f"data set {name} has no label maps with attributes, as several tasks need: "
            f"register one by --register-multitask {name} IMAGE_DIR LABEL_DIR ATTRIBUTES.csv"
        )
    check_labels(cfg, name)
    count = cfg.MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES
    if len(names) != count:
        raise CdlError(
            f"data set {name} has {len(names)} attributes: set MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES "
            f"{len(names)} (it is {count})"
        )
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if dataset in DatasetCatalog.list() and _attributes_of(dataset) not in (None, names):
            raise CdlError(
                f"data sets {name} and {dataset} have different attributes, or in another order: "
                "give their tables the same columns"
            )


def _attributes_of(name: str) -> list[str] | None:
    return MetadataCatalog.get(name).get("attributes")


def _find_records(images: str, labels: str, attributes: str) -> list[dict[str, Any]]:
    records = find_label_pairs(images, labels)
    names = [Path(record["file_name"]).relative_to(images).as_posix() for record in records]
    rows = read_attributes(attributes).select_rows(names)
    return [record | {"attributes": row} for record, row in zip(records, rows, strict=True)]
