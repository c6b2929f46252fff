"""Data sets in the layout of PASCAL VOC, validated before use.

```
FOLDER/JPEGImages/ID.jpg
FOLDER/Annotations/ID.xml             sizes, classes and boxes
FOLDER/ImageSets/Main/SPLIT.txt       one ID per line
FOLDER/classes.txt                    optional: names of the classes, in the order of labels
```
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from cdl_d2.codec.latent import check_pixels
from cdl_d2.errors import CdlError
from cdl_d2.files import read_lines

CORNERS = ("xmin", "ymin", "xmax", "ymax")
NUMBERS = ("truncated", "difficult", *(f"bndbox/{corner}" for corner in CORNERS))
TEXTS = ("name", "pose")
MAX_NUMBER = 2**31
MAX_NAME_LENGTH = 100  # of a class


def read_voc_classes(folder: str | Path, split: str) -> list[str]:
    """Return the names of the classes, in the order of labels, after checking a split.

    They are those of `classes.txt`, or else of all annotations, sorted (VOC's usual order).

    Raises:
        FileNotFoundError: if a folder, or an image or annotation of the split, does not exist.
        CdlError: if the split has less than two images, an ID or a class contains a path, an
            annotation is not VOC's XML or has a class that `classes.txt` lacks, or an image has
            more than `max_pixels` pixels.
    """
    folder = Path(folder)
    class_list, annotations = folder / "classes.txt", _find_annotations(folder, split)
    if not class_list.is_file():
        annotations = {*annotations, *(folder / "Annotations").glob("*.xml")}
        return sorted({name for path in annotations for name in _read_class_names(path)})
    names = read_lines(class_list)
    for name in names:
        _check_name(name, class_list)
    used = {name for path in annotations for name in _read_class_names(path)}
    missing = sorted(used - set(names))
    if missing or len(set(names)) < len(names):
        problem = f"lacks the class {missing[0]!r}" if missing else "has a class twice"
        raise CdlError(f"{class_list} {problem}: list each class of the annotations once")
    return names


def _find_annotations(folder: Path, split: str) -> list[Path]:
    """Return the annotations of a split, whose images exist."""
    file = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}: expected JPEGImages, Annotations and ImageSets/Main in {folder}"
        )
    try:
        ids = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CdlError(f"{file} is not a UTF-8 text: {error}") from error
    if len(ids) < 2:  # Detectron2 cannot read one
        raise CdlError(f"{file} has {len(ids)} images, expected at least 2")
    for image_id in ids:
        path = PurePosixPath(image_id)
        is_word = len(image_id.split()) == 1 and not {*"#\0"}.intersection(image_id)
        if not is_word or path.is_absolute() or ".." in path.parts:
            raise CdlError(f"{file}: line {image_id!r} is not the ID of an image in JPEGImages")
        if not (folder / "JPEGImages" / f"{image_id}.jpg").is_file():
            raise FileNotFoundError(f"{file}: there is no image {folder}/JPEGImages/{image_id}.jpg")
    return [folder / "Annotations" / f"{image_id}.xml" for image_id in ids]


def _read_class_names(path: Path) -> list[str]:
    """Return the classes of an annotation's objects, and check what else Detectron2 reads."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no annotation {path}")
    try:
        # Parsed as text, like Detectron2 does.
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        check_pixels((_number(root, "size/height"), _number(root, "size/width")))
        objects = root.findall("object")
        for element in objects:
            for key in TEXTS:
                _text(element, key)
            _check_name(_text(element, "name"), path)
            for key in NUMBERS:
                _number(element, key)
        return [_text(element, "name") for element in objects]
    except (ElementTree.ParseError, ValueError) as error:
        raise CdlError(f"{path} is not an annotation of VOC ({error})") from error


def _text(element: ElementTree.Element, key: str) -> str:
    text = element.findtext(key)
    if not text:
        raise ValueError(f"<{element.tag}> has no <{key}>")
    return text


def _check_name(name: str, source: Path) -> None:
    """Raise CdlError if a name is no file name: the evaluator writes one file per class."""
    if len(name) > MAX_NAME_LENGTH or not name.isprintable() or {*"/\\"}.intersection(name):
        expected = f"at most {MAX_NAME_LENGTH} characters, without / or \\"
        raise CdlError(f"{source}: class {name[:MAX_NAME_LENGTH]!r}: expected {expected}")


def _number(element: ElementTree.Element, key: str) -> int:
    text = _text(element, key)
    number = int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", text) else MAX_NUMBER
    if abs(number) >= MAX_NUMBER:
        raise ValueError(f"<{key}> of <{element.tag}> is {text[:20]!r}, expected a whole number")
    return number
