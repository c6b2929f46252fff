"""Which images a data set consists of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cdl_d2.codec.image_files import find_images


def images_of_folder(folder: Path) -> list[str]:
    """Paths of all images under a folder, relative to it, with forward slashes.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no image folder {folder}")
    return [path.relative_to(folder).as_posix() for path in find_images(folder)]


def images_of_coco(annotations: Path) -> list[str]:
    """The file names in a COCO-format annotation file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not COCO format, or names a file outside of the folder of images.
    """
    if not annotations.is_file():
        raise FileNotFoundError(f"there is no annotation file {annotations}")
    try:
        entries = json.loads(annotations.read_text())["images"]
        names = [PurePosixPath(entry["file_name"]) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{annotations} is not COCO-format JSON: {error!r}") from error
    for name in names:
        if name.is_absolute() or ".." in name.parts or not name.name:
            raise ValueError(f"{annotations}: file_name '{name}' is not inside the image folder")
    return sorted({str(name) for name in names})


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
