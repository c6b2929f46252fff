"""The page about a quick start: a table, loss curves, and pictures of some images."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from cdl_d2.bench.quickstart.commands import Task
from cdl_d2.bench.quickstart.page import Cost, Row, as_html, embedded, write_page
from cdl_d2.bench.quickstart.runs import read_losses, read_results
from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.pictures import show_bits, show_channels
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.errors import imports_of_extra
from cdl_d2.files import write_atomically
from cdl_d2.prediction.drawing import draw_objects

with imports_of_extra("report"):
    from matplotlib.figure import Figure

THRESHOLD = 0.3  # scores that are drawn; small models are rarely sure
TITLES = {
    "teacher": "pixel network on originals (the teacher)",
    "decoded": "decode, then the teacher",
    "fitted": "latents, a bridge fitted to the teacher",
    "finetuned": "decode, then the teacher fine-tuned",
    "bridge": "latents, the teacher fine-tuned behind the bridge",
}
ALTS = {
    "losses": "task losses and transfer losses over the iterations",
    "image": "an image, decoded, its bits and strongest channels, the truth and what is found",
}


def table_rows(task: Task, decoded: Cost, latent: Cost) -> list[Row]:
    """One row a run."""
    costs = {"decoded": decoded, "finetuned": decoded, "fitted": latent, "bridge": latent}
    rows = []
    for run, title in TITLES.items():
        results = read_results(task, run)
        bpp = results.get("rate", {}).get("bpp")
        row = Row(title, results["bbox"]["AP"], results["segm"]["AP"], bpp, costs.get(run))
        rows.append(row)
    return rows


def write_report(
    task: Task, codec: Codec, rows: Sequence[Row], backend: str, minutes: float, pictures: int
) -> Path:
    """Write `report.html`, which needs no other file, and its figures as PNG beside it."""
    figures = {"losses": losses_figure(task)}
    figures |= {f"image_{i}": image_figure(task, codec, i) for i in range(pictures)}
    parts = [
        f"<h1>Detection on compressed latents</h1><p>{html.escape(_summary(task, backend))}</p>"
    ]
    parts.append(as_html(rows))
    parts.append(
        "<p>Multiply-adds are those of backbone, pyramid and, where it runs, the image decoder. "
        "Times are medians on the CPU, from bitstream to detections, and include entropy decoding. "
        "The built-in codec's decoder is a sixteenth of a full one's work, so that little time can "
        "be saved here. So short a training is mostly chance: two AP between rows say nothing, and "
        f"seeds differ by more. All of it took {minutes:.1f} minutes.</p>"
    )
    for name, figure in figures.items():
        data = _png(figure)
        with write_atomically(task.folder / f"{name}.png") as temporary:
            temporary.write_bytes(data)
        parts.append(embedded(data, "png", ALTS[name.partition("_")[0]]))
    path = task.folder / "report.html"
    write_page(path, parts)
    return path


def losses_figure(task: Task) -> Figure:
    """Task losses of the trainings, and the transfer losses of the student on latents."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in ("teacher", "finetuned", "bridge"):
        entries = read_losses(task, run)
        if not entries:
            continue
        iterations = [e["iteration"] for e in entries]
        names = [k for k in entries[0] if k.startswith("loss_") and "transfer" not in k]
        left.plot(iterations, [sum(e[k] for k in names) for e in entries], label=TITLES[run])
        terms = sorted(k for k in entries[0] if k.startswith("loss_transfer_"))
        for name in terms if run == "bridge" else ():
            label = name.removeprefix("loss_transfer_").replace("_", " ")
            right.plot(iterations, [e[name] for e in entries], label=label)
    right.set_yscale("log")
    for axis, title in ((left, "task losses"), (right, "transfer losses")):
        axis.set(title=title, xlabel="iteration")
        axis.legend()
    return figure


def image_figure(task: Task, codec: Codec, index: int) -> Figure:
    """A validation image: decoded, its bits and channels, the truth, and what students find."""
    annotations, folder = task.data("val")
    content = read_coco(annotations)
    record = content["images"][index]
    image = read_image(Path(folder) / record["file_name"])
    with torch.no_grad():
        latent = codec.encode(image.float() / 255)
        decoded = torch.round(codec.decode(latent) * 255).byte()
    truth = [a | {"score": 1.0} for a in content["annotations"] if a["image_id"] == record["id"]]
    names = {c["id"]: c["name"] for c in content["categories"]}
    figure = Figure(figsize=(14, 9), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(2, 1, 2))
    axes = top.subplots(1, 3)
    _show(axes[0], image, "original")
    _show(axes[1], decoded, f"decoded, {latent.bits_per_pixel:.2f} bits a pixel")
    top.colorbar(show_bits(axes[2], latent), ax=axes[2])
    axes[2].set_title("bits of each latent cell")
    show_channels(list(middle.subplots(1, 8)), latent)
    axes = bottom.subplots(1, 3)
    shown = {"truth": truth}
    for run in ("finetuned", "bridge"):
        shown[TITLES[run]] = read_detections(task, run, record["id"])
    for axis, (title, objects) in zip(axes, shown.items(), strict=True):
        objects = [entry for entry in objects if entry["score"] >= THRESHOLD]
        _show(axis, draw_results(image, objects), title)
        for entry in objects:
            label = {"color": "white", "backgroundcolor": "black", "fontsize": 7}
            axis.text(*entry["bbox"][:2], names[entry["category_id"]], **label)
    return figure


def read_detections(task: Task, run: str, image_id: int) -> list[dict[str, Any]]:
    """What a run found in an image, in COCO's result format."""
    path = task.folder / run / "inference" / "coco_instances_results.json"
    return [
        entry
        for entry in json.loads(path.read_text(encoding="utf-8"))
        if entry["image_id"] == image_id
    ]


def draw_results(image: torch.Tensor, objects: Sequence[dict[str, Any]]) -> torch.Tensor:
    """Draw boxes and masks of objects in COCO's result format on a 3 x H x W uint8 image."""
    if not objects:
        return image
    boxes = torch.tensor([entry["bbox"] for entry in objects])
    boxes[:, 2:] += boxes[:, :2]
    masks = np.stack([coco_mask.decode(entry["segmentation"]).astype(bool) for entry in objects])
    labels = [entry["category_id"] for entry in objects]
    return draw_objects(image, boxes, labels, masks=torch.from_numpy(masks), width=2)


def _show(axis, image: torch.Tensor, title: str) -> None:
    axis.imshow(image.movedim(0, -1))
    axis.set_title(title)
    axis.axis("off")


def _summary(task: Task, backend: str) -> str:
    return (
        f"Sample data, {len(task.classes)} classes of shapes, images of {task.size} pixels; "
        f"Mask R-CNN of {backend}, {task.iterations} iterations of the teacher and half as many of "
        f"each student, seed {task.seed}."
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()
