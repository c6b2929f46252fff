"""The quick start with training, from an empty folder to its report."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from cdl_d2.bench.html_page import embed_figure, table_html, write_page
from cdl_d2.bench.quickstart.commands import CODEC, COMMANDS, Task
from cdl_d2.bench.quickstart.comparison import compress, costs_per_image, detect, picture_row
from cdl_d2.bench.quickstart.page import HEAD, Cost, Row, format_row, table_text
from cdl_d2.bench.quickstart.runs import read_losses, read_results, run_all
from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.data.datasets.synthetic import write_detection
from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.files import check_empty_folder, write_json
from cdl_d2.model_zoo.backends import default_backend
from cdl_d2.prediction import Predictor

with imports_of_extra("report"):
    from matplotlib.figure import Figure

TIMED_IMAGES, SHOWN_IMAGES = 20, 4
THRESHOLD = 0.3  # lowest score of a detection in pictures; small models have low scores
TITLES = {
    "teacher": "RGB model on original images (teacher)",
    "decoded": "decode, then the RGB model",
    "fitted": "latent model: the RGB model behind a fitted bridge",
    "finetuned": "decode, then the RGB model fine-tuned on decoded images",
    "bridge": "latent model, fine-tuned",
}
TRAINED = ("teacher", "finetuned", "bridge")


def quick_start(task: Task, backend: str, images: tuple[int, int]) -> str:
    """Synthesize images, train, measure and report; finished parts of an earlier call are kept.

    Args:
        task: data and length of the trainings.
        backend: backend to train with; `auto` for Detectron2 if it is installed.
        images: number of training images and of evaluation images.

    Returns:
        the results as a table, and the path of the report.

    Raises:
        CdlError: if numbers are too small, the folder has other files, or a training fails.
    """
    start = time.monotonic()
    if task.iterations < 1 or min(images) < 1 or task.size < 64 or task.seed < 0:
        raise CdlError(
            f"iterations {task.iterations}, images {images}, size {task.size} and seed "
            f"{task.seed}: at least 1, 1 and 1, 64 and 0 are needed"
        )
    backend = default_backend() if backend == "auto" else backend
    _claim_folder(task, backend, images)
    _synthesize(task, images)
    run_all(COMMANDS[backend], task)
    codec, folder = Codec.load(*CODEC), task.folder / "coded"
    folder.mkdir(exist_ok=True)
    paths = {path.name: path for path in find_images(Path(task.data("val")[1]))[:TIMED_IMAGES]}
    streams = {name: compress(codec, path, folder) for name, path in paths.items()}
    runs = {"rgb": "finetuned", "latent": "bridge"}
    predictors = {kind: Predictor.load(task.folder / run, "cpu") for kind, run in runs.items()}
    outcomes = detect(predictors, streams)
    rows = _table_rows(task, costs_per_image(predictors, codec, outcomes))
    content, report = read_coco(task.data("val")[0]), task.folder / "report.html"
    pictures = [
        picture_row(name, path, content, outcomes, streams[name], THRESHOLD, "shapes")
        for name, path in [*paths.items()][:SHOWN_IMAGES]
    ]
    minutes = (time.monotonic() - start) / 60
    introduction = _introduction(task, backend, rows, minutes)
    write_page(report, "Detection on compressed latents", [*introduction, *pictures])
    return f"{table_text(rows)}\n\nwritten: {report}, with {backend}, after {minutes:.1f} minutes"


def _claim_folder(task: Task, backend: str, images: tuple[int, int]) -> None:
    """Create the output folder, or take one with the same settings."""
    settings = {
        "backend": backend,
        "seed": task.seed,
        "iterations": task.iterations,
        "images": list(images),
        "size": task.size,
    }
    path = task.folder / "settings.json"
    if not path.exists():
        check_empty_folder(task.folder)
        task.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CdlError(f"{path} is corrupted: delete the folder, or use another") from error
    if saved != settings:
        raise CdlError(f"{task.folder} holds a quick start with {saved}: use another folder")


def _synthesize(task: Task, images: tuple[int, int]) -> None:
    for part, count, seed in (("train", images[0], 2), ("val", images[1], 1)):
        folder = task.folder / "data" / part
        image_count = len(list((folder / "images").glob("*.png")))
        if image_count < count or not (folder / "annotations.json").exists():
            files = write_detection(folder, count, (task.size,) * 2, 2 * task.seed + seed)
            for _ in tqdm(files, desc=f"synthesize {part}", total=count + 1, unit="file"):
                pass


def _table_rows(task: Task, costs: dict[str, Cost]) -> list[Row]:
    kinds = {"decoded": "rgb", "finetuned": "rgb", "fitted": "latent", "bridge": "latent"}
    rows = []
    for run, title in TITLES.items():
        results = read_results(task, run)
        bpp, cost = results.get("rate", {}).get("bpp"), costs.get(kinds.get(run, ""))
        rows.append(format_row(title, results, bpp, cost))
    return rows


def _introduction(task: Task, backend: str, rows: list[Row], minutes: float) -> list[str]:
    setting = (
        f"Synthetic images of {task.size} pixels with {len(task.classes)} classes of shapes; Mask "
        f"R-CNN of {backend}, {task.iterations} iterations for the teacher and half as many for "
        f"each fine-tuned model; seed {task.seed}."
    )
    losses = draw_losses({run: read_losses(task, run) for run in TRAINED})
    return [
        f"<p>{html.escape(setting)}</p>",
        table_html(HEAD, rows),
        "<p>GMACs (10<sup>9</sup> multiply-adds) are those of backbone, feature pyramid and "
        "decoder. Times are medians from file to masks on one core. The built-in codec's decoder "
        "costs a twelfth of a full-size one, so little time can be saved here. Differences of "
        "two AP are within the variation between seeds of so short a training. This run took "
        f"{minutes:.1f} minutes.</p>",
        embed_figure(losses, "losses by iteration"),
    ]


def draw_losses(runs: Mapping[str, Sequence[dict[str, float]]]) -> Figure:
    """Draw task losses, and the latent model's transfer losses, from `metrics.json` by run."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run, records in runs.items():
        iterations = [record["iteration"] for record in records]
        names = {name for record in records for name in record if name.startswith("loss_")}
        transfer = {name for name in names if name.startswith("loss_transfer_")}
        sums = [sum(record[name] for name in names - transfer) for record in records]
        left.plot(iterations, sums, label=TITLES[run])
        for name in sorted(transfer) if run == "bridge" else ():
            label = name.removeprefix("loss_transfer_").replace("_", " ")
            right.plot(iterations, [record[name] for record in records], label=label)
    right.set_yscale("log")
    for axis, title in ((left, "task losses"), (right, "transfer losses")):
        axis.set(title=title, xlabel="iteration")
        axis.legend()
    return figure
