"""Registration of data sets in the layout of PASCAL VOC."""

from __future__ import annotations

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc

from cdl_d2.data.datasets.voc import read_voc_classes
from cdl_d2.errors import CdlError


def register_voc(name: str, folder: str, split: str) -> None:
    """Register a split of a folder in VOC's layout.

    Its average precision is that of VOC 2007 (eleven points of recall) if the name contains 2007,
    otherwise that of later years (the area under the curve).

    Raises:
        FileNotFoundError: if the split does not exist.
        CdlError: if the name is taken, or the annotations cannot be read.
    """
    if name in DatasetCatalog.list():
        raise CdlError(f"data set {name} is registered already: choose another name")
    try:
        classes = read_voc_classes(folder, split)
    except (FileNotFoundError, CdlError) as error:
        raise type(error)(f"data set {name}: {error}") from error
    register_pascal_voc(name, folder, split, 2007 if "2007" in name else 2012, classes)
    MetadataCatalog.get(name).set(evaluator_type="pascal_voc")
