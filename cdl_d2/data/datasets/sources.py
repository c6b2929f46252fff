"""Which images a data set consists of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cdl_d2.codec.io.image_files import find_images
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.errors import CdlError


def find_images_of(folder: Path, annotations: Path | None = None) -> list[str]:
    """Paths of all images under a folder, relative to it, with forward slashes.

    Args:
        annotations: a COCO-format file: the file names in it instead.

    Raises:
        FileNotFoundError: if there is no such folder.
        CdlError: if it has no image; as read_coco.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no image folder {folder}")
    if annotations is None:
        return [path.relative_to(folder).as_posix() for path in find_images(folder)]
    entries = read_coco(annotations, parts=["images"], images=folder)["images"]
    return sorted({str(PurePosixPath(entry["file_name"])) for entry in entries})


def stem_of(name: str) -> str:
    """What an image, its copies in other formats and its bitstream have in common."""
    return str(PurePosixPath(name).with_suffix(""))


def part_of(text: str | None) -> tuple[int, int]:
    """(i, n) of `i/n`; of None as shard_of_environment.

    Raises:
        CdlError: for anything else, or an i that is not one of 0..n-1.
    """
    try:
        index, count = (int(n) for n in text.split("/")) if text else shard_of_environment()
    except ValueError as error:
        source = f"--shard {text!r}" if text else "RANK or SLURM_ARRAY_TASK_ID of the environment"
        raise CdlError(f"{source} is not of the form i/n") from error
    if not 0 <= index < count:
        raise CdlError(f"part {index}/{count}: i counts from 0 to n - 1")
    return index, count


def shard_of_environment(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """(i, n): which part of n this process does, as torchrun or a SLURM array says; else (0, 1)."""
    if {"RANK", "WORLD_SIZE"} <= environment.keys():
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= environment.keys():
        first = int(environment.get("SLURM_ARRAY_TASK_MIN", 0))
        step = int(environment.get("SLURM_ARRAY_TASK_STEP", 1))  # --array=3-9:2 is 3, 5, 7, 9
        index = (int(environment["SLURM_ARRAY_TASK_ID"]) - first) // step
        return index, int(environment["SLURM_ARRAY_TASK_COUNT"])
    return 0, 1
