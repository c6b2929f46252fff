"""Time from an image to its file, and from the file to a model's result (table 3 of *Semantic
Segmentation in Learned Compressed Domain*)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from tqdm import tqdm

from cdl_d2.bench.results import RESULTS, read_tables
from cdl_d2.codec import Bitstream
from cdl_d2.d2.applications.bitstreams import codec_of, compress_for, read_stream
from cdl_d2.d2.applications.trained import evaluation_mapper, load_trained
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.device import synchronize
from cdl_d2.files import write_json


def time_files(
    folders: Mapping[str, str | Path], images: Sequence[Path], repeats: int, device: str
) -> list[dict[str, Any]]:
    """Measure trained models in turn, image by image, so that they can be compared.

    Args:
        folders: of trainings, by name.
        images: resized as in evaluation before the clock starts.
        repeats: of every measurement, after one that is not counted.
        device: of the models and codecs' networks; entropy coding is on the CPU.

    Returns:
        a row for each `run`: `channels` in the base layer, `bpp` of what the model needs, and
        `bpp of the enhancement layer`, 0 without one, on average; `encode (ms)`,
        from pixels in memory to these bytes, and `decode + task (ms)`, from them to the result,
        medians.

    Raises:
        FileNotFoundError, CdlError: as load_trained; if a model looks at original images.
    """
    models = {name: load_trained(folder, device) for name, folder in folders.items()}
    mappers = {name: evaluation_mapper(folder) for name, folder in folders.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for path in tqdm(images, unit="image"):
        for name, model in models.items():
            item = mappers[name]({"file_name": str(path)})
            found[name].append(_measure(model, item, repeats))
    rows = []
    for name, measured in found.items():
        values = {key: [each[key] for each in measured] for key in measured[0]}
        means = {k: median(v) if k.endswith("(ms)") else fmean(v) for k, v in values.items()}
        rows.append({"run": name} | means)
    return rows


def record_times(folders: Mapping[str, str | Path], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what time_files measured into the results of each training, as `time/encode_ms` and
    `time/result_ms`, where they can be compared and drawn.

    Raises:
        FileNotFoundError, CdlError: as read_tables.
    """
    for row in rows:
        folder = Path(folders[row["run"]])
        times = {"encode_ms": row["encode (ms)"], "result_ms": row["decode + task (ms)"]}
        write_json(folder / RESULTS, read_tables(folder) | {"time": times})


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def _measure(model: CompressedModel, item: dict[str, Any], repeats: int) -> dict[str, float]:
    image, encode, decode = item["image"], [], []
    given = {key: item[key] for key in ("height", "width") if key in item}
    for _ in range(repeats + 1):
        start = _now(model.device)
        content = compress_for(model, image, with_enhancement=False).base.to_bytes()
        middle = _now(model.device)
        output = model([read_stream(model, Bitstream.from_bytes(content)) | given])[0]
        encode.append(middle - start)
        decode.append(_now(model.device) - middle)
    pixels = image.shape[1] * image.shape[2]
    enhancement = compress_for(model, image).enhancement
    return {
        "channels": output.get("channels", codec_of(model).latent_channels),
        "bpp": 8 * len(content) / pixels,
        "bpp of the enhancement layer": enhancement.bits / pixels if enhancement else 0.0,
        "encode (ms)": 1000 * median(encode[1:]),
        "decode + task (ms)": 1000 * median(decode[1:]),
    }
