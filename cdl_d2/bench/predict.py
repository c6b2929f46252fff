"""Time from a bitstream's file to written predictions, by part, and throughput."""

from __future__ import annotations

import io
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from cdl_d2.codec import Bitstream
from cdl_d2.device import synchronize
from cdl_d2.errors import CdlError
from cdl_d2.prediction import Predictor
from cdl_d2.prediction.reading import load_codec, open_source

TRANSFORMS = ("h_s", "g_s")  # of a codec: the hyperprior's, and the decoder
READING = ("read", "hyperprior", "symbols", "decoder")  # on the CPU, by any number of workers
PARTS = (*READING, "network", "write")


def time_predictions(
    predictors: Mapping[str, Predictor], paths: Sequence[Path], workers: Sequence[int]
) -> list[dict[str, Any]]:
    """Measure models in turn on each image, with one thread, so that their times compare.

    Args:
        predictors: models by name; what comes before their networks is measured on the CPU.
        paths: bitstreams.
        workers: numbers of processes, to measure the throughput with each.

    Returns:
        a row per `model`: medians in milliseconds of `read` (file and header), `hyperprior` (its
        network), `symbols` (entropy decoding without it), `decoder` (of an RGB model), `network`,
        `write` (the prediction's record in an archive) and their `total`; `images/s` of these; what
        the throughput is `bound by`, `reading` (all parts before the network) or `network`; how
        many `workers` reading needs to keep one network busy; and `images/s with N` workers.

    Raises:
        CdlError, OSError: if a file is not a bitstream, or of another codec.
    """
    for path in paths:
        if not isinstance(open_source(path), Bitstream):
            raise CdlError(f"{path} is not a bitstream: compress it with `cdl codec compress`")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times: dict[str, list[dict[str, float]]] = defaultdict(list)
        for predictor in predictors.values():
            _time_one(predictor, paths[0])
        for path in tqdm(paths, desc="parts", unit="image"):
            for name, predictor in predictors.items():
                times[name].append(_time_one(predictor, path))
        rows = []
        for name, predictor in predictors.items():
            parts = {
                part: 1000 * median(seconds[part] for seconds in times[name]) for part in PARTS
            }
            total = 1000 * median(sum(seconds.values()) for seconds in times[name])
            row = {"model": name} | parts | {"total": total, "images/s": 1000 / total}
            share = sum(parts[part] for part in READING) / (parts["network"] + parts["write"])
            row |= {"bound by": "reading" if share > 1 else "network", "workers": math.ceil(share)}
            for count in workers:
                row[f"images/s with {count}"] = _throughput(predictor, paths, count)
            rows.append(row)
        return rows
    finally:
        torch.set_num_threads(threads)


def _time_one(predictor: Predictor, path: Path) -> dict[str, float]:
    """Return the seconds of each part for a file."""
    coded_input = predictor.read.coded_input
    begin = time.perf_counter()
    stream = open_source(path)
    read = time.perf_counter()
    codec = coded_input.find_codec(stream.codec) or load_codec(stream)
    spent = dict.fromkeys(TRANSFORMS, 0.0)
    with _timed(codec.network, spent):
        item = predictor.read(stream)
    items = time.perf_counter()
    prediction = predictor.model.predict([item])[0]
    synchronize(predictor.model.device)
    network = time.perf_counter()
    json.dumps(predictor.model.task.to_record(prediction, _as_png))
    written = time.perf_counter()
    return {
        "read": read - begin,
        "hyperprior": spent["h_s"],
        "symbols": items - read - sum(spent.values()),
        "decoder": spent["g_s"],
        "network": network - items,
        "write": written - network,
    }


def _as_png(folder: str, pixels: np.ndarray) -> str:
    """Encode a picture that an archive stores beside its parts."""
    Image.fromarray(pixels).save(io.BytesIO(), format="PNG")
    return folder


@contextmanager
def _timed(network: nn.Module, spent: dict[str, float]) -> Iterator[None]:
    """Add the seconds of a codec's transforms to `spent` inside the context."""

    def add(name: str, sign: int, *_: object) -> None:
        spent[name] += sign * time.perf_counter()

    with ExitStack() as hooks:
        for name, module in network.named_children():
            if name in spent:
                hooks.enter_context(module.register_forward_pre_hook(partial(add, name, -1)))
                hooks.enter_context(module.register_forward_hook(partial(add, name, 1)))
        yield


def _throughput(predictor: Predictor, paths: Sequence[Path], workers: int) -> float:
    """Return predictions per second of a stream, after the first."""
    predictions = predictor.stream([paths[0], *paths], workers=workers)
    next(predictions)
    begin = time.perf_counter()
    for _ in predictions:
        pass
    return len(paths) / (time.perf_counter() - begin)
