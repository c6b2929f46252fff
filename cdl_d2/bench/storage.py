"""What it takes to get at latents: read them, decode them, or encode images; and their sizes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.image_files import read_image
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.data.datasets.sources import images_of_folder
from cdl_d2.data.store.encoding import close_store, encode_shards, use_one_thread
from cdl_d2.data.store.latent_store import LatentStore
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.variant import Variant


@dataclass(frozen=True)
class Row:
    """Seconds an image, of one process."""

    name: str
    seconds: float


def time_access(
    codec: Codec, images: Path, names: Sequence[str], variant: Variant, folder: Path, repeats: int
) -> tuple[list[Row], dict[str, float]]:
    """Seconds and bytes an image of all ways to a latent, in one run.

    Writes a store of each form under `folder`. The median of `repeats` rounds over all images.
    """
    stores, rows = {}, []
    for form in ("arrays", "bitstreams"):
        plan = Plan(codec.identity, form, (variant,), tuple(names))
        plan.save(folder / form)
        for _ in encode_shards(codec, plan, images, folder / form, range(plan.shards), 0):
            pass
        close_store(folder / form, plan)
        stores[form] = LatentStore(folder / form, codec)
    pixels = {name: variant.apply(read_image(images / name)).float() / 255 for name in names}
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
    }
    for name, way in ways.items():
        way(names[0])
        rounds = []
        for _ in range(repeats):
            start = time.perf_counter()
            for image in names:
                way(image)
            rounds.append((time.perf_counter() - start) / len(names))
        rows.append(Row(name, sorted(rounds)[len(rounds) // 2]))
    cells = [stores["arrays"].read(n, variant)["latent"].numel() for n in names]
    count = len(names)
    sizes = {
        "latent, a byte a value": sum(cells) / count,
        "store of arrays": sum(len(r.to_bytes()) for r in records["arrays"].values()) / count,
        "bitstream": sum(len(r.content) for r in records["bitstreams"].values()) / count,
        "image file": sum((images / n).stat().st_size for n in names) / count,
    }
    return rows, sizes


def time_everything(
    codec: Codec, images: Path, variant: Variant, count: int, repeats: int, workers: int | None
) -> list[dict[str, Any]]:
    """time_access and bulk_utilisation of the first images of a folder, as rows of a table.

    Args:
        workers: of the bulk encoder; None for one a core.
    """
    names = images_of_folder(images)[:count]
    workers = workers or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        timings, sizes = time_access(codec, images, names, variant, Path(folder), repeats)
        bulk = Path(folder) / "bulk"
        share = bulk_utilisation(codec, images, names, variant, bulk, workers)
    rows = [("ms an image", row.name, 1000 * row.seconds) for row in timings]
    rows += [("bytes an image", form, size) for form, size in sizes.items()]
    rows.append(("share of a bare encoder", f"bulk encoder, {workers} processes", share))
    return [{"measure": measure, "what": what, "value": value} for measure, what, value in rows]


def memory_rows(codec: Codec, image: Path, count: int = 10_000) -> list[dict[str, Any]]:
    """memory_over as rows of a table."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(memory_over(codec, image, count, Path(folder)))
    return [{"what": what, "items": done, "MB": megabytes} for what, done, megabytes in found]


def compare_coding(codec: Codec, image: Path) -> list[dict[str, Any]]:
    """compare_with_compressai as rows of a table."""
    rows, equal = compare_with_compressai(codec, image)
    timed = [{"what": row.name, "ms": 1000 * row.seconds, "equal symbols": None} for row in rows]
    return [*timed, {"what": "both", "ms": None, "equal symbols": equal}]


def bulk_utilisation(
    codec: Codec, images: Path, names: Sequence[str], variant: Variant, folder: Path, workers: int
) -> float:
    """Images a second of the bulk encoder over that of as many bare encoders at once.

    A bare encoder is `Codec.encode` of images in memory, one thread a process, no input or output.
    Starting the processes is not counted on either side.
    """
    plan = Plan(codec.identity, "arrays", (variant,), tuple(names), shard_size=8)
    plan.save(folder)
    bulk = _rate(e for e in encode_shards(codec, plan, images, folder, range(plan.shards), workers))
    bare = torch.utils.data.DataLoader(
        _Bare(codec, images, names, variant),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="spawn",
        worker_init_fn=use_one_thread,
    )
    busy = [float(seconds) for seconds in bare]
    return bulk / (workers / (sum(busy) / len(busy)))


class _Bare(torch.utils.data.Dataset):
    def __init__(self, codec: Codec, images: Path, names: Sequence[str], variant: Variant):
        self.codec, self.images, self.names, self.variant = codec, images, names, variant

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> float:
        pixels = self.variant.apply(read_image(self.images / self.names[index])).float() / 255
        start = time.perf_counter()
        self.codec.encode(pixels)
        return time.perf_counter() - start


def _rate(items) -> float:
    """Items a second after the first eighth, which has to wait for processes to start."""
    items = iter(items)
    times = [time.perf_counter() for _ in items]
    first = len(times) // 8
    return (len(times) - 1 - first) / (times[-1] - times[first])


def memory_over(
    codec: Codec, image: Path, count: int, folder: Path
) -> Iterator[tuple[str, int, float]]:
    """Resident memory in MB while `count` copies of an image are encoded, and read ten times over.

    Yields (what, items done, MB) ten times each.
    """
    sources = folder / "images"
    sources.mkdir()
    names = [f"{i:06d}{image.suffix}" for i in range(count)]
    for name in names:
        (sources / name).symlink_to(image.resolve())
    plan = Plan(codec.identity, "arrays", (Variant(64),), tuple(names))
    plan.save(folder / "store")
    arguments = codec, plan, sources, folder / "store", range(plan.shards)
    for done, _ in enumerate(encode_shards(*arguments, workers=0), 1):
        if done % (count // 10) == 0:
            yield "encode", done, _resident_megabytes()
    close_store(folder / "store", plan)
    store = LatentStore(folder / "store", codec)
    order = torch.randperm(10 * count, generator=torch.Generator().manual_seed(0))
    for done, index in enumerate(order.tolist(), 1):
        store.read(names[index % count], plan.variants[0])
        if done % count == 0:
            yield "read", done, _resident_megabytes()


def _resident_megabytes() -> float:
    """Memory of this process without the files that it has mapped."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def compare_with_compressai(codec: Codec, path: Path) -> tuple[list[Row], float]:
    """Coding one image here and with CompressAI's own functions, without the transforms.

    Returns:
        the seconds, and the share of symbols that are equal: CompressAI predicts in float32, this
        package in float64, so that a few are rounded to another side.
    """
    network, coder = codec.network, codec.cpu_coder
    network.update()
    with torch.no_grad():
        y = network.g_a(pad_for_coding(read_image(path).float() / 255)[None])
        coder.encode(coder.quantize(y[0, :, :4, :4]))  # converts the tables, once for a codec
        transforms = network.g_a, network.g_s
        network.g_a, network.g_s = torch.nn.Identity(), torch.nn.Identity()
        try:
            rows, theirs = _timed("CompressAI encodes", lambda: network.compress(y))
            more, _ = _timed("CompressAI decodes", lambda: network.decompress(**theirs))
        finally:
            network.g_a, network.g_s = transforms
        rows += more
        more, strings = _timed("cdl_d2 encodes", lambda: coder.encode(coder.quantize(y[0])))
        rows += more
        grid = tuple(y.shape[2:])
        more, ours = _timed("cdl_d2 decodes", lambda: coder.decode(strings, grid))
        rows += more
        expected = coder.decode([s[0] for s in theirs["strings"]], grid, "compressai")
    return rows, float((ours.y_symbols == expected.y_symbols).double().mean())


def _timed(name: str, action: Callable[[], object]) -> tuple[list[Row], object]:
    start = time.perf_counter()
    result = action()
    return [Row(name, time.perf_counter() - start)], result
