"""Time from an image to its file, and from the file to a model's result (table 3 of *Semantic
Segmentation in Learned Compressed Domain*)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from tqdm import tqdm

from cdl_d2.codec import Bitstream
from cdl_d2.d2.engine.bitstreams import codec_of, compress_for, read_stream
from cdl_d2.d2.engine.trained import evaluation_mapper, load_trained
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel


@dataclass
class FileTiming:
    """What was measured of a model, a value an image.

    Attributes:
        encode: seconds from pixels in memory to the bytes that the model needs.
        decode_and_task: seconds from these bytes to the result.
        bits: of these bytes, a pixel.
        rest_bits: of the second layer, a pixel; 0 if there is none.
        channels: how many are in the first layer.
    """

    encode: list[float] = field(default_factory=list)
    decode_and_task: list[float] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    rest_bits: list[float] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Means of sizes, medians of times in milliseconds."""
        return {
            "channels": fmean(self.channels),
            "bpp": fmean(self.bits),
            "bpp of the rest": fmean(self.rest_bits),
            "encode (ms)": 1000 * median(self.encode),
            "decode + task (ms)": 1000 * median(self.decode_and_task),
        }


def time_files(
    folders: Mapping[str, str | Path], images: Sequence[Path], repeats: int, device: str
) -> dict[str, FileTiming]:
    """Measure trained models in turn, image by image, so that they can be compared.

    Args:
        folders: of trainings, by name.
        images: resized as in evaluation before the clock starts.
        repeats: of every measurement, after one that is not counted.
        device: of the models and codecs' networks; entropy coding is on the CPU.

    Raises:
        FileNotFoundError, ValueError: as load_trained; if a model looks at original images.
    """
    models = {name: load_trained(folder, device) for name, folder in folders.items()}
    mappers = {name: evaluation_mapper(folder) for name, folder in folders.items()}
    timings = {name: FileTiming() for name in folders}
    for path in tqdm(images, unit="image"):
        for name, model in models.items():
            _measure(model, mappers[name]({"file_name": str(path)}), repeats, timings[name])
    return timings


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def _measure(
    model: CompressedModel, item: dict[str, Any], repeats: int, timing: FileTiming
) -> None:
    image, encode, decode = item["image"], [], []
    given = {key: item[key] for key in ("height", "width") if key in item}
    for _ in range(repeats + 1):
        start = _now(model.device)
        content = compress_for(model, image, with_rest=False).selected.to_bytes()
        middle = _now(model.device)
        output = model([read_stream(model, Bitstream.from_bytes(content)) | given])[0]
        encode.append(middle - start)
        decode.append(_now(model.device) - middle)
    timing.encode.append(median(encode[1:]))
    timing.decode_and_task.append(median(decode[1:]))
    pixels = image.shape[1] * image.shape[2]
    rest = compress_for(model, image).rest
    timing.bits.append(8 * len(content) / pixels)
    timing.rest_bits.append(8 * len(rest.to_bytes()) / pixels if rest else 0.0)
    timing.channels.append(output.get("channels", codec_of(model).latent_channels))
