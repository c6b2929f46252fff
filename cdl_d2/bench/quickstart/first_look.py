"""The quick start without training: trained models that come with the package, on real images."""

from __future__ import annotations

import html
import io
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.bench.quickstart.measure import count_costs
from cdl_d2.bench.quickstart.page import Cost, Row, as_html, as_text, embedded, write_page
from cdl_d2.codec import Codec
from cdl_d2.codec.image_files import find_images, read_image
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo import card
from cdl_d2.packaged import SAMPLES
from cdl_d2.prediction import Detections, Predictor
from cdl_d2.prediction.evaluation import CocoTruth
from cdl_d2.prediction.results import THRESHOLD

MODELS = {"pixel": "nuclei-pixel", "latent": "nuclei-bridge"}  # names in the zoo
NUCLEI = SAMPLES / "nuclei"
TITLES = {
    "original": "pixel network on the originals",
    "pixel": "decode, then the pixel network",
    "latent": "latents, that network trained on behind a bridge",
}


@dataclass
class _Look:
    """What one way of looking finds, and how long it takes, by image."""

    found: dict[str, Detections] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


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
        coded = [_compress(codec, path, output / "coded") for path in tqdm(paths, desc="compress")]
        looks = _look(predictors, paths, coded)
        costs = _costs(predictors, codec, looks, paths)
    finally:
        torch.set_num_threads(threads)
    rows = _rows(looks, costs, coded)
    seconds = time.monotonic() - start
    report = output / "report.html"
    write_page(report, _parts(rows, looks, paths, coded, seconds))
    return f"{as_text(rows)}\n\nwritten: {report}, after {seconds:.0f} seconds"


def _compress(codec: Codec, path: Path, folder: Path) -> Path:
    target = (folder / path.name).with_suffix(".cdlz")
    codec.compress(read_image(path).float() / 255).save(target)
    return target


def _look(
    predictors: dict[str, Predictor], paths: list[Path], coded: list[Path]
) -> dict[str, _Look]:
    """Both models on every image, in turn, so that times can be compared; the first one twice."""
    looks = {kind: _Look() for kind in TITLES}
    for predictor in predictors.values():
        predictor(coded[0])
    pairs = list(zip(paths, coded, strict=True))
    for path, stream in tqdm(pairs, desc="detect", unit="image"):
        for kind, predictor in predictors.items():
            begin = time.perf_counter()
            looks[kind].found[path.name] = predictor(stream)
            looks[kind].seconds.append(time.perf_counter() - begin)
        looks["original"].found[path.name] = predictors["pixel"](path)
    return looks


def _costs(
    predictors: dict[str, Predictor], codec: Codec, looks: dict[str, _Look], paths: list[Path]
) -> dict[str, Cost]:
    networks = [predictors[kind].model.network for kind in MODELS]
    counts = count_costs(codec, *networks, tuple(read_image(paths[0]).shape[1:]))
    return {
        kind: Cost(count / 1e9, 1000 * statistics.median(looks[kind].seconds))
        for kind, count in zip(MODELS, counts, strict=True)
    }


def _rows(looks: dict[str, _Look], costs: dict[str, Cost], coded: list[Path]) -> list[Row]:
    truth = CocoTruth(NUCLEI / "annotations.json", card(MODELS["latent"]).classes)
    rows = []
    for kind, look in looks.items():
        entries, found = [], []
        for name, each in look.found.items():
            height, width = each.image_size
            entries.append({"file_name": name, "height": height, "width": width})
            image_id = truth.image_id(name)
            found += each.to_coco(image_id, truth.category_ids)
        results = truth.results(found, entries, list(look.found))
        pixels = sum(e["height"] * e["width"] for e in entries)
        bpp = sum(8 * path.stat().st_size for path in coded) / pixels
        rows.append(
            Row(
                TITLES[kind],
                results["bbox"]["AP"],
                results["segm"]["AP"],
                None if kind == "original" else bpp,
                costs.get(kind),
            )
        )
    return rows


def _parts(
    rows: list[Row],
    looks: dict[str, _Look],
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
        "<p>To train models like these, on drawn images, in ten minutes:</p>"
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
