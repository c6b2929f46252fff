"""Comparison of decode-then-detect with detection on latents: detections, times and costs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from tqdm import tqdm

from cdl_d2.bench.html_page import figure_row
from cdl_d2.bench.multiply_adds import count_network
from cdl_d2.bench.quickstart.page import Cost
from cdl_d2.codec import Codec, latent_grid
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.errors import MissingPackageError
from cdl_d2.prediction import Detections, Predictor

KINDS = ("rgb", "latent")  # decode-then-detect, and detection on latents


@dataclass
class Outcome:
    """Detections of a model by image name, and its seconds per image."""

    detections: dict[str, Detections] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def compress(codec: Codec, path: Path, folder: Path) -> Path:
    """Write the bitstream of an image to NAME.cdlz in a folder, and return its path."""
    target = (folder / path.name).with_suffix(".cdlz")
    codec.compress(read_image(path).float() / 255).save(target)
    return target


def detect(predictors: Mapping[str, Predictor], streams: Mapping[str, Path]) -> dict[str, Outcome]:
    """Run models on bitstreams, with one thread, in turn on each image so that times compare.

    Args:
        predictors: models by name.
        streams: bitstreams by image name; the first is read once more, to warm up.
    """
    outcomes = {kind: Outcome() for kind in predictors}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for predictor in predictors.values():
            predictor(next(iter(streams.values())))
        for name, stream in tqdm(streams.items(), desc="detect", unit="image"):
            for kind, predictor in predictors.items():
                start = time.perf_counter()
                outcomes[kind].detections[name] = predictor(stream)
                outcomes[kind].seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return outcomes


def costs_per_image(
    predictors: Mapping[str, Predictor], codec: Codec, outcomes: Mapping[str, Outcome]
) -> dict[str, Cost]:
    """Return the cost of each model: multiply-adds and median time, from bitstream on."""
    size = next(iter(outcomes["latent"].detections.values())).image_size
    y_hat = torch.zeros(1, codec.latent_channels, *latent_grid(size))
    margin = predictors["latent"].model.coded_input.margin
    latent_input = F.pad(y_hat, (0, margin, 0, margin))
    seconds = {kind: statistics.median(outcomes[kind].seconds) for kind in predictors}
    gmacs: dict[str, float | None] = dict.fromkeys(predictors)
    try:
        decoder = count_network(codec.network.g_s, y_hat)
        for kind, predictor in predictors.items():
            network, reads_latents = predictor.model.network, kind == "latent"
            pixels = torch.zeros(1, 3, *size)
            count = count_network(network.backbone, latent_input if reads_latents else pixels)
            gmacs[kind] = (count if reads_latents else decoder + count) / 1e9
    except MissingPackageError as error:
        tqdm.write(f"multiply-adds are not counted: {error}", file=sys.stderr)
    return {kind: (gmacs[kind], 1000 * seconds[kind]) for kind in predictors}


def picture_row(
    name: str,
    image: Path,
    annotations: dict[str, Any],
    outcomes: Mapping[str, Outcome],
    stream: Path,
    threshold: float,
    noun: str,
) -> str:
    """Return HTML of an image with its ground truth, and with the detections of both kinds.

    Args:
        name: name of the image in `annotations` and `outcomes`.
        image: path of the image.
        annotations: COCO-format content.
        outcomes: detections by kind.
        stream: path of the bitstream.
        threshold: lowest score of a detection in the pictures.
        noun: name of the objects, in the plural.
    """
    rgb, latent = (outcomes[kind].detections[name] for kind in KINDS)
    truth = _ground_truth(annotations, name, rgb)
    size = stream.stat().st_size
    found = (_count(outcome, threshold) for outcome in (rgb, latent))
    captions = (
        f"{len(truth)} annotated {noun}",
        f"{next(found)} found in the reconstructed image ({size:,} bytes)",
        f"{next(found)} found in the latent (the same {size:,} bytes)",
    )
    drawn = (truth.draw(image), *(kind.draw(threshold=threshold) for kind in (rgb, latent)))
    return figure_row(Path(name).stem, dict(zip(captions, drawn, strict=True)))


def _count(detections: Detections, threshold: float) -> int:
    return int((detections.scores >= threshold).sum())


def _ground_truth(content: dict[str, Any], name: str, template: Detections) -> Detections:
    """Return the annotations of an image as detections."""
    image_id = next(i["id"] for i in content["images"] if i["file_name"] == name)
    objects = [a for a in content["annotations"] if a["image_id"] == image_id]
    category_ids = sorted(category["id"] for category in content["categories"])
    boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [torch.from_numpy(coco_mask.decode(a["segmentation"])).bool() for a in objects]
    empty = torch.zeros(0, *template.image_size, dtype=torch.bool)
    return replace(
        template,
        boxes=boxes,
        labels=torch.tensor([category_ids.index(a["category_id"]) for a in objects]).long(),
        scores=torch.ones(len(objects)),
        masks=torch.stack(masks) if masks else empty,
    )
