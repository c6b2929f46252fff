"""Tables of yes-or-no attributes of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

FILE_NAME = "file_name"
ANSWERS = {"0": 0, "-1": 0, "1": 1}


@dataclass(frozen=True)
class AttributeTable:
    """Which attributes images have.

    Attributes:
        path: the file.
        names: K names, in the order of the columns.
        rows: K zeros and ones by an image's path without its suffix, so that decoded copies of
            images are found as well.
    """

    path: Path
    names: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]

    def of_images(self, images: Sequence[str]) -> list[list[int]]:
        """The rows of all images of a folder, in their order.

        Args:
            images: paths relative to the folder, with forward slashes.

        Raises:
            CdlError: if an image has no row, or a row no image.
        """
        stems = [stem_of(image) for image in images]
        for image, stem in zip(images, stems, strict=True):
            if stem not in self.rows:
                raise CdlError(f"{self.path} has no row for image {image}: add it")
        without = self.rows.keys() - set(stems)
        if without:
            raise CdlError(
                f"{self.path} has {len(without)} rows without an image, of {min(without)} for one: "
                "remove them, or add the images"
            )
        return [list(self.rows[stem]) for stem in stems]


def read_attributes(path: str | Path) -> AttributeTable:
    """Read a table: CSV with the columns `file_name` and one an attribute, or CelebA's text.

    CelebA's `list_attr_celeba.txt` and CelebAMask-HQ's `CelebAMask-HQ-attribute-anno.txt` have the
    number of images in the first line, the names in the second, and behind that a line an image. In
    both formats 1 is yes, 0 and -1 are no.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is empty, no UTF-8 or no such table; if a name of an attribute or a file
            comes twice or is missing; if a row is of another length, or a value is not 0, 1 or -1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no attribute table {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CdlError(f"attribute table {path} is not UTF-8 ({error}): convert it") from error
    is_celeba = text.partition("\n")[0].strip().isdecimal()
    names, rows = _celeba(path, text.splitlines()) if is_celeba else _csv(path, text)
    _check_names(path, names)
    if not rows:
        raise CdlError(f"attribute table {path} has no rows: expected one an image")
    return AttributeTable(path, tuple(names), _answers(path, len(names), rows))


def write_attributes(
    path: str | Path, names: Sequence[str], rows: Iterable[tuple[str, Sequence[int]]]
) -> None:
    """Write CSV as read_attributes takes it.

    Args:
        names: of the attributes.
        rows: a file name and zeros and ones, an image.
    """
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([FILE_NAME, *names])
        writer.writerows([name, *answers] for name, answers in rows)


def _csv(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise CdlError(f"attribute table {path} is not CSV: {error}") from error
    header, *rows = [[cell.strip() for cell in line] for line in lines] or [[""]]
    if header[0] != FILE_NAME:
        raise CdlError(
            f"attribute table {path} begins with {header[0]!r}: expected the column {FILE_NAME} "
            "and one an attribute, separated by commas, or CelebA's number of images"
        )
    return header[1:], rows


def _celeba(path: Path, lines: list[str]) -> tuple[list[str], list[list[str]]]:
    count = int(lines[0])
    names, *rows = [line.split() for line in lines[1:] if line.strip()] or [[]]
    if len(rows) != count:
        raise CdlError(f"attribute table {path} has {len(rows)} rows: its first line says {count}")
    return names, rows


def _check_names(path: Path, names: list[str]) -> None:
    if not names or "" in names:
        raise CdlError(f"attribute table {path} has a column without a name, or no attribute")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise CdlError(f"attribute table {path} has two columns {twice[0]!r}: rename one")


def _answers(path: Path, count: int, rows: list[list[str]]) -> dict[str, tuple[int, ...]]:
    answers: dict[str, tuple[int, ...]] = {}
    for name, *values in rows:
        place = f"attribute table {path}, row {name!r}"
        if not Path(name).name:
            raise CdlError(f"{place}: expected an image's file name in the first column")
        if len(values) != count:
            raise CdlError(f"{place}: has {len(values)} values, but there are {count} attributes")
        wrong = [value for value in values if value not in ANSWERS]
        if wrong:
            raise CdlError(f"{place}: value {wrong[0]!r} is not 1 (yes), 0 or -1 (no)")
        if stem_of(name) in answers:
            raise CdlError(f"{place}: this image has two rows: remove one")
        answers[stem_of(name)] = tuple(ANSWERS[value] for value in values)
    return answers
