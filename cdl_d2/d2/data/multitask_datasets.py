"""Images with label maps and yes-or-no attributes in Detectron2's catalog."""

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
    """Make images with label maps and a table of attributes known to configs.

    Records have `attributes`, K zeros and ones; their names are the metadata's `attributes`. Label
    maps and classes are those of register_label_folder.

    Args:
        attributes: a file, see read_attributes.

    Raises:
        FileNotFoundError, CdlError: as register_label_folder and read_attributes; CdlError if an
            image has no row, or a row no image.
    """
    find = partial(_find_records, images, labels, attributes)
    metadata = register_labelled(name, labels, find, EVALUATOR_TYPE)
    metadata.set(attributes=list(read_attributes(attributes).names))


def check_multitask_dataset(cfg: CfgNode, name: str) -> None:
    """Raise CdlError unless a data set has label maps and attributes, as many of each as the heads
    tell apart, and the attributes of all other data sets: they are known by their places."""
    names = _attributes_of(name)
    if names is None:
        raise CdlError(
            f"data set {name} has no label maps with attributes, which several tasks need: "
            f"register one with --register-multitask {name} IMAGE_DIR LABEL_DIR ATTRIBUTES.csv"
        )
    check_labels(cfg, name)
    heads = cfg.MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES
    if len(names) != heads:
        raise CdlError(
            f"data set {name} has {len(names)} attributes: set MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES "
            f"{len(names)} (it is {heads})"
        )
    for other in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if other in DatasetCatalog.list() and _attributes_of(other) not in (None, names):
            raise CdlError(
                f"data sets {name} and {other} have different attributes, or in another order: "
                "give their tables the same columns"
            )


def _attributes_of(name: str) -> list[str] | None:
    return MetadataCatalog.get(name).get("attributes")


def _find_records(images: str, labels: str, attributes: str) -> list[dict[str, Any]]:
    records = find_label_pairs(images, labels)
    names = [Path(record["file_name"]).relative_to(images).as_posix() for record in records]
    rows = read_attributes(attributes).select_rows(names)
    return [record | {"attributes": row} for record, row in zip(records, rows, strict=True)]
