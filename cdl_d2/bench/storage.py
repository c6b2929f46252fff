"""Time and size of the ways to obtain latents: stores, bitstreams, encoding."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.coded_files import build_compressor
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import LatentStore, close_store
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.variant import Variant
from cdl_d2.workers import load_in_workers, usable_cores


def time_access(
    codec: Codec, files: Sequence[Path], variant: Variant, repeats: int, workers: int | None
) -> list[dict[str, Any]]:
    """Measure the ways to obtain latents, and the utilization of the bulk encoder, in one run.

    Args:
        codec: codec of the latents.
        files: images.
        variant: size of the images.
        repeats: number of rounds; times are their medians.
        workers: processes of the bulk encoder; None for one per core.

    Returns:
        rows of a table: `measure`, `what`, `value`; times in milliseconds and sizes in bytes per
        image.
    """
    images = Path(os.path.commonpath([path.parent for path in files]))
    names = [path.relative_to(images).as_posix() for path in files]
    workers = workers or usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        rows = _time_ways(codec, images, names, variant, Path(folder), repeats)
        share = _bulk_utilisation(codec, images, names, variant, Path(folder) / "bulk", workers)
    rows.append(("share of a bare encoder", f"bulk encoder, {workers} processes", share))
    return [{"measure": measure, "what": what, "value": value} for measure, what, value in rows]


def _time_ways(
    codec: Codec, images: Path, names: Sequence[str], variant: Variant, folder: Path, repeats: int
) -> list[tuple[str, str, float]]:
    """Time each way; writes a store of each form under `folder`."""
    rows, stores = [], {}
    for form in ("arrays", "bitstreams"):
        plan = Plan(codec.identity, form, (variant,), tuple(names))
        stores[form] = _write_store(codec, plan, images, folder)
    pixels = {name: variant.apply(read_image(images / name)).float() / 255 for name in names}
    compressor = build_compressor(codec)
    records = {form: {n: s.record(n, variant) for n in names} for form, s in stores.items()}
    ways: dict[str, Callable[[str], object]] = {
        "read the image and resize it": lambda n: variant.apply(read_image(images / n)),
        "read a latent from a store of arrays": lambda n: stores["arrays"].read(n, variant),
        "read a latent from a store of bitstreams": lambda n: stores["bitstreams"].read(n, variant),
        "decode a bitstream's symbols": lambda n: codec.read_symbols(
            Bitstream.from_bytes(records["bitstreams"][n].content)
        ),
        "encode an image that is in memory": lambda n: codec.encode(pixels[n]),
        "encode it to a bitstream": lambda n: codec.compress(pixels[n]),
        "compress an image file and read the result back": lambda n: compressor.compress(
            images / n, folder / "compressed.cdlz"
        ),
    }
    for what, way in ways.items():
        way(names[0])
        rounds = []
        for _ in range(repeats):
            start = time.perf_counter()
            for image in names:
                way(image)
            rounds.append((time.perf_counter() - start) / len(names))
        rows.append(("ms per image", what, 1000 * median(rounds)))
    sizes = {
        "latent, a byte per value": [
            stores["arrays"].read(n, variant)["latent"].numel() for n in names
        ],
        "store of arrays": [len(r.to_bytes()) for r in records["arrays"].values()],
        "bitstream": [len(r.content) for r in records["bitstreams"].values()],
        "image file": [(images / n).stat().st_size for n in names],
    }
    return rows + [("bytes per image", what, fmean(values)) for what, values in sizes.items()]


def _write_store(codec: Codec, plan: Plan, images: Path, folder: Path) -> LatentStore:
    """Write the store of a plan to `folder / plan.form`, and open it."""
    path = folder / plan.form
    plan.save(path)
    for _ in encode_shards(codec, plan, images, path, range(plan.shards), 0):
        pass
    close_store(path, plan)
    return LatentStore(path, codec)


def _bulk_utilisation(
    codec: Codec, images: Path, names: Sequence[str], variant: Variant, folder: Path, workers: int
) -> float | None:
    """Return the bulk encoder's images per second, relative to as many bare encoders.

    None for a single image, which gives no rate. A bare encoder is `Codec.encode` of images in
    memory, one thread per process, without input and output. Starting the processes is not counted.
    """
    if len(names) < 2:
        return None
    plan = Plan(codec.identity, "arrays", (variant,), tuple(names), shard_size=8)
    plan.save(folder)
    bulk = _rate(e for e in encode_shards(codec, plan, images, folder, range(plan.shards), workers))
    bare = _Bare(codec, images, names, variant)
    busy = list(load_in_workers(bare, range(len(names)), workers, "spawn"))  # seconds
    return bulk * fmean(busy) / workers


class _Bare(torch.utils.data.Dataset):
    def __init__(self, codec: Codec, images: Path, names: Sequence[str], variant: Variant):
        self.codec, self.images, self.names, self.variant = codec, images, names, variant

    def __getitem__(self, index: int) -> float:
        pixels = self.variant.apply(read_image(self.images / self.names[index])).float() / 255
        start = time.perf_counter()
        self.codec.encode(pixels)
        return time.perf_counter() - start


def _rate(items) -> float:
    """Return items per second after the first eighth, which waits for processes to start."""
    items = iter(items)
    times = [time.perf_counter() for _ in items]
    first = len(times) // 8
    return (len(times) - 1 - first) / (times[-1] - times[first])
