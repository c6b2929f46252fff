"""Folders in the layout of PASCAL VOC, checked before anything relies on them.

```
FOLDER/JPEGImages/ID.jpg
FOLDER/Annotations/ID.xml             sizes, classes and boxes
FOLDER/ImageSets/Main/SPLIT.txt       an ID a line
FOLDER/classes.txt                    optional: names of the classes, in the order of labels
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from cdl_d2.codec.latent import check_pixels
from cdl_d2.errors import CdlError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NUMBERS = ("truncated", "difficult", *(f"bndbox/{corner}" for corner in CORNERS))
TEXTS = ("name", "pose")
LARGEST = 2**31  # of any number
LONGEST = 100  # letters of a class's name


def read_voc_classes(folder: str | Path, split: str) -> list[str]:
    """The names of the classes, in the order of labels: those of `classes.txt`, or the sorted ones
    of all annotations of the folder, which for VOC itself is the usual order.

    Raises:
        FileNotFoundError: if the folder, a part of it, or an image or annotation of the split does
            not exist.
        CdlError: if the split has less than two images, an ID or a class could name a file
            elsewhere, an annotation is no XML of VOC or has a class that `classes.txt` lacks, or an
            image has more pixels than codec.latent.max_pixels.
    """
    folder = Path(folder)
    known, wanted = folder / "classes.txt", _annotations_of(folder, split)
    if not known.is_file():
        found = _class_names({*wanted, *(folder / "Annotations").glob("*.xml")})
        return sorted(found)
    names = _listed_classes(known)
    lacking = sorted(_class_names(wanted) - set(names))
    if lacking or len(set(names)) < len(names):
        wrong = f"lacks the class {lacking[0]!r}" if lacking else "names a class twice"
        raise CdlError(f"{known} {wrong}: name each class of the annotations once, a line each")
    return names


def _listed_classes(path: Path) -> list[str]:
    try:
        names = [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        for name in names:
            _check_name(name)
    except ValueError as error:
        raise CdlError(f"{path} is no list of classes ({error})") from error
    return names


def _annotations_of(folder: Path, split: str) -> list[Path]:
    """Of the images of a split, which are there."""
    file = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}: expected JPEGImages, Annotations and ImageSets/Main in {folder}"
        )
    try:
        ids = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CdlError(f"{file} is no text ({error})") from error
    if len(ids) < 2:  # Detectron2 cannot read one
        raise CdlError(f"{file} names {len(ids)} images: at least 2 are needed")
    for each in ids:
        path = PurePosixPath(each)
        one_word = len(each.split()) == 1 and not {*"#\0"}.intersection(each)
        if not one_word or path.is_absolute() or ".." in path.parts:
            raise CdlError(f"{file}: line {each!r} is not the ID of an image in JPEGImages")
        if not (folder / "JPEGImages" / f"{each}.jpg").is_file():
            raise FileNotFoundError(f"{file}: there is no image {folder}/JPEGImages/{each}.jpg")
    return [folder / "Annotations" / f"{each}.xml" for each in ids]


def _class_names(annotations: Iterable[Path]) -> set[str]:
    return {name for path in annotations for name in _names_in(path)}


def _names_in(path: Path) -> list[str]:
    """The classes of an annotation's objects, all that Detectron2 will read of it being there."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation {path}")
    try:
        # As text, as Detectron2 reads it.
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        check_pixels((_number(root, "size/height"), _number(root, "size/width")))
        objects = root.findall("object")
        for each in objects:
            for key in TEXTS:
                _text(each, key)
            _check_name(_text(each, "name"))
            for key in NUMBERS:
                _number(each, key)
        return [_text(each, "name") for each in objects]
    except (ElementTree.ParseError, ValueError) as error:
        raise CdlError(f"{path} is no annotation of VOC ({error})") from error


def _text(element: ElementTree.Element, key: str) -> str:
    text = element.findtext(key)
    if not text:
        raise ValueError(f"<{element.tag}> has no <{key}>")
    return text


def _check_name(name: str) -> None:
    """The evaluator writes a file of this name."""
    if len(name) > LONGEST or not name.isprintable() or {*"/\\"}.intersection(name):
        raise ValueError(
            f"{name[:LONGEST]!r} is not a class: at most {LONGEST} letters, without / or \\"
        )


def _number(element: ElementTree.Element, key: str) -> int:
    text = _text(element, key)
    number = int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", text) else LARGEST
    if abs(number) >= LARGEST:
        raise ValueError(f"<{key}> of <{element.tag}> is {text[:20]!r}, no whole number of pixels")
    return number
