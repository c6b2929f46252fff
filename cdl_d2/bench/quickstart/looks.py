"""Two ways of looking at the sample images, decoded and as latents: what they find and cost."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from cdl_d2.bench.quickstart.measure import count_costs
from cdl_d2.bench.quickstart.page import Cost, Row
from cdl_d2.codec import Codec
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.errors import MissingPackageError
from cdl_d2.model_zoo import card
from cdl_d2.packaged import SAMPLES
from cdl_d2.prediction import Detections, Predictor
from cdl_d2.prediction.tasks.detection import CocoGroundTruth

MODELS = {"pixel": "nuclei-pixel", "latent": "nuclei-bridge"}  # names in the zoo
NUCLEI = SAMPLES / "nuclei"
TITLES = {
    "original": "pixel network on the originals",
    "pixel": "decode, then the pixel network",
    "latent": "latents, that network trained on behind a bridge",
}


@dataclass
class Look:
    """What one way of looking finds, and how long it takes, by image."""

    found: dict[str, Detections] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def compress(codec: Codec, path: Path, folder: Path) -> Path:
    """The bitstream of an image, NAME.cdlz in a folder."""
    target = (folder / path.name).with_suffix(".cdlz")
    codec.compress(read_image(path).float() / 255).save(target)
    return target


def look(predictors: dict[str, Predictor], paths: list[Path], coded: list[Path]) -> dict[str, Look]:
    """Both models on every image, in turn, so that times can be compared; the first one twice."""
    looks = {kind: Look() for kind in TITLES}
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


def costs_of(
    predictors: dict[str, Predictor], codec: Codec, looks: dict[str, Look], paths: list[Path]
) -> dict[str, Cost]:
    """Return the costs per image of the models that read bitstreams."""
    networks = [predictors[kind].model.network for kind in MODELS]
    try:
        counts = count_costs(codec, *networks, tuple(read_image(paths[0]).shape[1:]))
        giga = [count / 1e9 for count in counts]
    except MissingPackageError as error:
        tqdm.write(f"multiply-adds are not counted: {error}", file=sys.stderr)
        giga = [None] * len(MODELS)
    return {
        kind: Cost(count, 1000 * statistics.median(looks[kind].seconds))
        for kind, count in zip(MODELS, giga, strict=True)
    }


def rows_of(looks: dict[str, Look], costs: dict[str, Cost], coded: list[Path]) -> list[Row]:
    """A line for each way of looking, in the order of TITLES."""
    ground_truth = CocoGroundTruth(NUCLEI / "annotations.json", card(MODELS["latent"]).classes)
    rows = []
    for kind, look in looks.items():
        entries = []
        for name, found in look.found.items():
            height, width = found.image_size
            entry = {"file_name": name, "height": height, "width": width}
            entries.append(entry | {"objects": found.to_coco()})
        results = ground_truth.results(entries, list(look.found))
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
