"""The quick start from an empty folder to its report."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tqdm import tqdm

from cdl_d2.bench.quickstart.commands import CODEC, COMMANDS, Task
from cdl_d2.bench.quickstart.measure import measure_costs
from cdl_d2.bench.quickstart.page import as_text
from cdl_d2.bench.quickstart.report import table_rows, write_report
from cdl_d2.bench.quickstart.runs import run_all
from cdl_d2.codec import Codec
from cdl_d2.data.datasets.synthetic import write_detection
from cdl_d2.errors import CdlError
from cdl_d2.files import check_empty_folder, write_json
from cdl_d2.model_zoo.backends import default_backend
from cdl_d2.prediction.loading import load_model


def quick_start(task: Task, backend: str, images: tuple[int, int]) -> str:
    """Synthesize images, train, measure and report; what an earlier call has finished stays.

    Args:
        backend: to train with; `auto` for Detectron2 where it is installed.
        images: to train on, and to evaluate on.

    Returns:
        the table, and where the report is.

    Raises:
        CdlError: for numbers that are too small, a folder with other things, or a run that fails.
    """
    start = time.monotonic()
    if task.iterations < 1 or min(images) < 1 or task.size < 64 or task.seed < 0:
        raise CdlError(
            f"iterations {task.iterations}, images {images}, size {task.size} and seed "
            f"{task.seed}: at least 1, 1 and 1, 64 and 0 are needed"
        )
    backend = default_backend() if backend == "auto" else backend
    _claim_folder(task, backend, images)
    for part, count, seed in (("train", images[0], 2), ("val", images[1], 1)):
        folder = task.folder / "data" / part
        image_count = len(list((folder / "images").glob("*.png")))
        if image_count < count or not (folder / "annotations.json").exists():
            files = write_detection(folder, count, (task.size,) * 2, 2 * task.seed + seed)
            for _ in tqdm(files, desc=f"synthesize {part}", total=count + 1, unit="file"):
                pass
    run_all(COMMANDS[backend], task)
    codec = Codec.load(*CODEC)
    paths = sorted(Path(task.data("val")[1]).iterdir())[:20]
    models = (load_model(task.folder / run, "cpu") for run in ("teacher", "bridge"))
    rows = table_rows(task, *measure_costs(codec, *models, paths))
    minutes = (time.monotonic() - start) / 60
    report = write_report(task, codec, rows, backend, minutes, min(4, images[1]))
    table = as_text(rows)
    return f"{table}\n\nwritten: {report}, with {backend}, after {minutes:.1f} minutes"


def _claim_folder(task: Task, backend: str, images: tuple[int, int]) -> None:
    """Make the output folder, or find one of the same settings."""
    settings = {
        "backend": backend,
        "seed": task.seed,
        "iterations": task.iterations,
        "images": list(images),
        "size": task.size,
    }
    path = task.folder / "settings.json"
    if path.exists():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CdlError(f"{path} is damaged: delete the folder, or use another") from error
        if theirs != settings:
            raise CdlError(f"{task.folder} holds a quick start with {theirs}: use another folder")
    else:
        check_empty_folder(task.folder)
        task.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
