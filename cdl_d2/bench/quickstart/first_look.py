"""The quick start without training: trained models that come with the package, on real images."""

from __future__ import annotations

import html
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.bench.quickstart.looks import MODELS, NUCLEI, Look, compress, costs_of, look, rows_of
from cdl_d2.bench.quickstart.page import Row, as_html, as_text, embedded, write_page
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo import card
from cdl_d2.prediction import Detections, Predictor
from cdl_d2.prediction.results import THRESHOLD


def first_look(output: Path) -> str:
    """Compress the sample images, detect with and without decoding, and write `report.html`.

    Returns:
        the table, and where the report is.

    Raises:
        CdlError, OSError: if the folder has other things in it, or cannot be written.
    """
    start = time.monotonic()
    if output.exists() and not output.is_dir():
        raise CdlError(f"--output {output} is a file: give a folder")
    others = {path.name for path in output.iterdir()} if output.exists() else set()
    if "report.html" in others:  # of an earlier look
        others -= {"report.html", "coded"}
    if others:
        raise CdlError(f"{output} has other things, such as {min(others)}: give another --output")
    (output / "coded").mkdir(parents=True, exist_ok=True)
    paths = find_images(NUCLEI / "images")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # times are of one core
    try:
        predictors = {kind: Predictor.load(name, "cpu") for kind, name in MODELS.items()}
        codec = predictors["latent"].model.coded_input.codec
        coded = [compress(codec, path, output / "coded") for path in tqdm(paths, desc="compress")]
        looks = look(predictors, paths, coded)
        costs = costs_of(predictors, codec, looks, paths)
    finally:
        torch.set_num_threads(threads)
    rows = rows_of(looks, costs, coded)
    seconds = time.monotonic() - start
    report = output / "report.html"
    write_page(report, _parts(rows, looks, paths, coded, seconds))
    return f"{as_text(rows)}\n\nwritten: {report}, after {seconds:.0f} seconds"


def _parts(
    rows: list[Row],
    looks: dict[str, Look],
    paths: list[Path],
    coded: list[Path],
    seconds: float,
) -> list[str]:
    """The page, top to bottom."""
    ratio = rows[2].cost.milliseconds / rows[1].cost.milliseconds
    shown = ", ".join(f"{k} {v}" for k, v in card(MODELS["latent"]).metrics.items())
    parts = [
        "<h1>Detection on compressed latents</h1>",
        f"<p>{len(paths)} microscopy images of cell nuclei were compressed by a small learned "
        "codec. A Mask R-CNN looks at what the codec's decoder makes of the files, and the same "
        "network, trained on behind a bridge, at the latents in them, without decoding.</p>",
        as_html(rows),
        "<p>Twelve images say little about accuracy; on all "
        f"80 of the validation set the model of latents has {html.escape(shown)}. It is ahead "
        "because it was trained on with labels; a network that was trained on as long with decoded "
        "images is about as good, and still has to decode. Times are "
        "medians on one core, from file to masks, measured in turn; without decoding it takes "
        f"{ratio:.2f} of the time. The built-in codec's decoder is a sixteenth of a full one's "
        "work, so that little time can be saved here. Multiply-adds are those of backbone, pyramid "
        f"and decoder. All of it took {seconds:.0f} seconds.</p>",
        "<p>To train models like these, on synthetic images, in ten minutes:</p>"
        "<pre>cdl quickstart --train</pre><p>To detect in your own images, compressed or not:</p>"
        f"<pre>cdl predict {MODELS['latent']} FOLDER --draw --output answers</pre>",
    ]
    content = read_coco(NUCLEI / "annotations.json")
    for path, stream in zip(paths, coded, strict=True):
        found = {kind: look.found[path.name] for kind, look in looks.items()}
        truth = _truth(content, path.name, found["original"])
        size = f"{stream.stat().st_size} bytes"
        figures = [
            (truth.draw(path), f"{len(truth)} nuclei that people marked"),
            (found["pixel"].draw(), f"{_sure(found['pixel'])} in the image decoded from {size}"),
            (found["latent"].draw(), f"{_sure(found['latent'])} in the latent of {size}"),
        ]
        parts.append(f"<h2>{html.escape(path.stem)}</h2><div class=row>")
        for pixels, caption in figures:
            picture = embedded(_jpeg(pixels), "jpeg", f"{path.stem}: {caption}")
            parts.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
        parts.append("</div>")
    return parts


def _sure(found: Detections) -> int:
    return int((found.scores >= THRESHOLD).sum())


def _truth(content: dict[str, Any], name: str, like: Detections) -> Detections:
    """What people marked, in the form of detections."""
    image_id = next(i["id"] for i in content["images"] if i["file_name"] == name)
    marked = [a for a in content["annotations"] if a["image_id"] == image_id]
    boxes = torch.tensor([a["bbox"] for a in marked], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [torch.from_numpy(coco_mask.decode(a["segmentation"])).bool() for a in marked]
    return replace(
        like,
        boxes=boxes,
        labels=torch.zeros(len(marked), dtype=torch.long),
        scores=torch.ones(len(marked)),
        masks=torch.stack(masks),
    )


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
