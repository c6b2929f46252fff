"""Time from an image to its file, and from the file to a model's result.

Table 3 of *Semantic Segmentation in Learned Compressed Domain*.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from tqdm import tqdm

from cdl_d2.bench.results import results_path
from cdl_d2.codec import Bitstream
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.device import synchronize
from cdl_d2.files import write_json
from cdl_d2.model_zoo import metrics
from cdl_d2.prediction.bitstreams import compress_for, get_codec, read_stream
from cdl_d2.prediction.models import PredictionModel


def time_files(
    models: Mapping[str, PredictionModel], images: Sequence[Path], repeats: int
) -> list[dict[str, Any]]:
    """Measure trained models in turn on each image, so that their times compare.

    Args:
        models: models by name, on the device to measure; entropy coding runs on the CPU.
        images: images, resized as in evaluation before the clock starts.
        repeats: number of measurements, after one for warming up.

    Returns:
        a row per `model`: means of `channels` in the base layer, `bpp` that the model reads and
        `bpp of the enhancement layer` (0 without one); medians of `encode (ms)`, from pixels in
        memory to bytes, and `decode + task (ms)`, from bytes to the result.

    Raises:
        FileNotFoundError, CdlError: if a model takes original images as input.
    """
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for path in tqdm(images, unit="image"):
        for name, model in models.items():
            measured[name].append(_measure(model, read_image(path), repeats))
    rows = []
    for name, times in measured.items():
        values = {key: [time[key] for time in times] for key in times[0]}
        means = {k: median(v) if k.endswith("(ms)") else fmean(v) for k, v in values.items()}
        rows.append({"model": name} | means)
    return rows


def record_times(rows: Sequence[Mapping[str, Any]]) -> None:
    """Add the times of `time_files` to the `results.json` of each training.

    They are `time/encode_ms` and `time/result_ms` to `cdl compare`.

    Raises:
        FileNotFoundError, CdlError: if results are missing or corrupted.
    """
    for row in rows:
        path = results_path(row["model"])
        times = {"encode_ms": row["encode (ms)"], "result_ms": row["decode + task (ms)"]}
        write_json(path, metrics.read_tables(path) | {"time": times})


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def _measure(
    prediction_model: PredictionModel, pixels: torch.Tensor, repeats: int
) -> dict[str, float]:
    model, encode, decode = prediction_model.network, [], []
    image = prediction_model.coded_input.swap(prediction_model.resize(pixels))
    size = {}
    if not prediction_model.task.of_one_size:
        size = dict(zip(("height", "width"), pixels.shape[1:], strict=True))
    for _ in range(repeats + 1):
        start = _now(model.device)
        content = compress_for(model, image, with_enhancement=False).base.to_bytes()
        middle = _now(model.device)
        output = model([read_stream(model, Bitstream.from_bytes(content)) | size])[0]
        encode.append(middle - start)
        decode.append(_now(model.device) - middle)
    pixels = image.shape[1] * image.shape[2]
    enhancement = compress_for(model, image).enhancement
    return {
        "channels": output.get("channels", get_codec(model).latent_channels),
        "bpp": 8 * len(content) / pixels,
        "bpp of the enhancement layer": enhancement.bits / pixels if enhancement else 0.0,
        "encode (ms)": 1000 * median(encode[1:]),
        "decode + task (ms)": 1000 * median(decode[1:]),
    }
