"""The quick start without training: packaged models on sample images."""

from __future__ import annotations

import html
import time
from pathlib import Path

from tqdm import tqdm

from cdl_d2.bench.html_page import table_html, write_page
from cdl_d2.bench.quickstart.comparison import (
    Outcome,
    compress,
    costs_per_image,
    detect,
    picture_row,
)
from cdl_d2.bench.quickstart.page import HEAD, Cost, Row, format_row, table_text
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.data.datasets.coco import read_coco
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo import card
from cdl_d2.packaged import SAMPLES
from cdl_d2.prediction import Predictor
from cdl_d2.prediction.drawing import THRESHOLD
from cdl_d2.prediction.tasks.detection import CocoGroundTruth

MODELS = {  # names in the zoo
    "rgb": "nuclei-pixel",
    "fine-tuned": "nuclei-decoded",
    "latent": "nuclei-bridge",
}
NUCLEI = SAMPLES / "nuclei"
TITLES = {
    "original": "RGB model on original images",
    "rgb": "decode, then the RGB model",
    "fine-tuned": "decode, then the RGB model fine-tuned on decoded images",
    "latent": "latent model: the RGB model fine-tuned behind a bridge",
}


def first_look(output: Path) -> str:
    """Compress sample images, detect with and without decoding, and write `report.html`.

    Returns:
        the results as a table, and the path of the report.

    Raises:
        CdlError, OSError: if the folder has other files in it, or cannot be written.
    """
    start = time.monotonic()
    _claim_folder(output)
    predictors = {kind: Predictor.load(name, "cpu") for kind, name in MODELS.items()}
    codec = predictors["latent"].model.coded_input.codec
    images = {path.name: path for path in find_images(NUCLEI / "images")}
    streams = {
        name: compress(codec, path, output / "coded")
        for name, path in tqdm(images.items(), desc="compress", unit="image")
    }
    outcomes = detect(predictors, streams)
    originals = Outcome({name: predictors["rgb"](path) for name, path in images.items()})
    costs = costs_per_image(predictors, codec, outcomes)
    rows = _table_rows({"original": originals} | outcomes, costs, streams)
    seconds = time.monotonic() - start
    content, report = read_coco(NUCLEI / "annotations.json"), output / "report.html"
    pictures = [
        picture_row(name, path, content, outcomes, streams[name], THRESHOLD, "nuclei")
        for name, path in images.items()
    ]
    introduction = _introduction(rows, costs, len(images), seconds)
    write_page(report, "Detection on compressed latents", [*introduction, *pictures])
    chance = f"On {len(images)} images a few points of AP are chance; times and GMACs are not."
    return f"{table_text(rows)}\n\n{chance}\nwritten: {report}, after {seconds:.0f} seconds"


def _claim_folder(output: Path) -> None:
    """Create the output folder, or take that of an earlier first look."""
    if output.exists() and not output.is_dir():
        raise CdlError(f"--output {output} is a file: give a folder")
    names = {path.name for path in output.iterdir()} if output.exists() else set()
    if "report.html" in names:  # of an earlier first look
        names -= {"report.html", "coded"}
    if names:
        raise CdlError(f"{output} has other files, such as {min(names)}: give another --output")
    (output / "coded").mkdir(parents=True, exist_ok=True)


def _table_rows(
    outcomes: dict[str, Outcome], costs: dict[str, Cost], streams: dict[str, Path]
) -> list[Row]:
    truth = CocoGroundTruth(NUCLEI / "annotations.json", card(MODELS["latent"]).classes)
    bits = sum(8 * path.stat().st_size for path in streams.values())
    rows = []
    for kind, title in TITLES.items():
        records = []
        for name, detections in outcomes[kind].detections.items():
            height, width = detections.image_size
            record = {"file_name": name, "height": height, "width": width}
            records.append(record | {"objects": detections.to_coco()})
        results = truth.results(records, list(outcomes[kind].detections))
        pixels = sum(record["height"] * record["width"] for record in records)
        bpp = None if kind == "original" else bits / pixels
        rows.append(format_row(title, results, bpp, costs.get(kind)))
    return rows


def _introduction(
    rows: list[Row], costs: dict[str, Cost], image_count: int, seconds: float
) -> list[str]:
    ratio = costs["latent"][1] / costs["rgb"][1]
    metrics = ", ".join(f"{k} {v}" for k, v in card(MODELS["latent"]).metrics.items())
    return [
        f"<p>{image_count} microscopy images of cell nuclei were compressed by a small learned "
        "codec. An RGB Mask R-CNN detects nuclei in the reconstructed images. A latent model, the "
        "same network fine-tuned behind an input adapter (bridge), detects them in the latents: no "
        "image is reconstructed.</p>",
        table_html(HEAD, rows),
        f"<p>AP on {image_count} images is uncertain; on the whole validation set of 80 images the "
        f"latent model reaches {html.escape(metrics)}. It is ahead of the RGB model because it was "
        "fine-tuned with labels; the fair comparison is with the RGB model that was fine-tuned as "
        "long on reconstructed images. Times are medians from file to masks on one core; the "
        f"latent model takes {ratio:.2f} of the time of decoder and RGB model. The built-in "
        "codec's decoder costs a twelfth of a full-size one, so little time can be saved here. "
        "GMACs (10<sup>9</sup> multiply-adds) are those of backbone, feature pyramid and decoder. "
        f"This run took {seconds:.0f} seconds.</p>",
        "<p>Train such models on synthetic images, in ten minutes:</p>"
        "<pre>cdl quickstart --train</pre><p>Detect nuclei in your own images or bitstreams:</p>"
        f"<pre>cdl predict {MODELS['latent']} FOLDER --draw --output predictions</pre>",
    ]
