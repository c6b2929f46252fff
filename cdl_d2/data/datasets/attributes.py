"""Tables of binary attributes of images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdl_d2.data.datasets.image_lists import image_key
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

FILE_NAME = "file_name"
VALUES = {"0": 0, "-1": 0, "1": 1}


@dataclass(frozen=True)
class AttributeTable:
    """Binary attributes of images.

    Attributes:
        path: path of the file.
        names: names of the K attributes.
        rows: K zeros and ones by an image's path without suffix, which its copies in other formats
            share.
    """

    path: Path
    names: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]

    def select_rows(self, images: Sequence[str]) -> list[list[int]]:
        """Return the rows of all images of a folder, in the order of their relative paths.

        Raises:
            CdlError: if an image has no row, or a row no image.
        """
        stems = [image_key(image) for image in images]
        for image, stem in zip(images, stems, strict=True):
            if stem not in self.rows:
                raise CdlError(f"{self.path} has no row for image {image}: add it")
        unused = self.rows.keys() - set(stems)
        if unused:
            raise CdlError(
                f"{self.path} has {len(unused)} rows without an image, such as {min(unused)}: "
                "remove them, or add the images"
            )
        return [list(self.rows[stem]) for stem in stems]


def read_attributes(path: str | Path) -> AttributeTable:
    """Read a CSV table with columns `file_name` and one per attribute, or a table of CelebA.

    CelebA's `list_attr_celeba.txt` and CelebAMask-HQ's `CelebAMask-HQ-attribute-anno.txt` have the
    number of images in the first line, the names in the second, then one line per image. In both
    formats 1 is yes, 0 and -1 are no.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is not such a table in UTF-8, names are missing or duplicate, a row has
            another length, or a value is not 0, 1 or -1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no attribute table {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CdlError(f"attribute table {path} is not UTF-8 ({error}): convert it") from error
    is_celeba = text.partition("\n")[0].strip().isdecimal()
    names, rows = _read_celeba(path, text.splitlines()) if is_celeba else _read_csv(path, text)
    _check_names(path, names)
    if not rows:
        raise CdlError(f"attribute table {path} has no rows: expected one per image")
    return AttributeTable(path, tuple(names), _parse_rows(path, len(names), rows))


def write_attributes(
    path: str | Path, names: Sequence[str], rows: Iterable[tuple[str, Sequence[int]]]
) -> None:
    """Write a CSV table for read_attributes; a row has a file name and K zeros and ones."""
    with (
        write_atomically(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([FILE_NAME, *names])
        writer.writerows([name, *values] for name, values in rows)


def _read_csv(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except csv.Error as error:
        raise CdlError(f"attribute table {path} is not CSV: {error}") from error
    header, *rows = [[cell.strip() for cell in line] for line in lines] or [[""]]
    if header[0] != FILE_NAME:
        raise CdlError(
            f"attribute table {path} begins with {header[0]!r}: expected the column {FILE_NAME} "
            "and one per attribute, separated by commas, or CelebA's number of images"
        )
    return header[1:], rows


def _read_celeba(path: Path, lines: list[str]) -> tuple[list[str], list[list[str]]]:
    count = int(lines[0])
    names, *rows = [line.split() for line in lines[1:] if line.strip()] or [[]]
    if len(rows) != count:
        raise CdlError(
            f"attribute table {path} has {len(rows)} rows, but {count} in its first line"
        )
    return names, rows


def _check_names(path: Path, names: list[str]) -> None:
    if not names or "" in names:
        raise CdlError(f"attribute table {path} has a column without a name, or no attribute")
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise CdlError(f"attribute table {path} has two columns {duplicates[0]!r}: rename one")


def _parse_rows(path: Path, count: int, rows: list[list[str]]) -> dict[str, tuple[int, ...]]:
    parsed: dict[str, tuple[int, ...]] = {}
    for name, *values in rows:
        source = f"attribute table {path}, row {name!r}"
        if not Path(name).name:
            raise CdlError(f"{source}: expected a file name in the first column")
        if len(values) != count:
            raise CdlError(f"{source}: has {len(values)} values, expected {count}")
        wrong = [value for value in values if value not in VALUES]
        if wrong:
            raise CdlError(f"{source}: value {wrong[0]!r} is not 1 (yes), 0 or -1 (no)")
        if image_key(name) in parsed:
            raise CdlError(f"{source}: the image has two rows: remove one")
        parsed[image_key(name)] = tuple(VALUES[value] for value in values)
    return parsed
