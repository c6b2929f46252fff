"""Time and memory of coding, detection and training steps, measured in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from cdl_d2.device import synchronize
from cdl_d2.errors import CdlError

if TYPE_CHECKING:
    from detectron2.config import CfgNode


RATIOS = (  # of sums of parts
    (("latent_detector",), ("decode", "pixel_detector")),
    (("latent_network",), ("decode", "pixel_network")),
    (("latent_backbone", "latent_heads"), ("decode", "pixel_backbone", "pixel_heads")),
    (("train_step_transfer",), ("train_step", "pixel_detector")),
)


def run_benchmark(
    cfg: CfgNode, size: tuple[int, int], repeats: int, detection_only: bool = False
) -> list[dict[str, Any]]:
    """Measure the parts of a TransferRCNN on a random image, with batch size 1.

    Weights are random: times of convolutions do not depend on them. Both detectors get the same
    proposals and TEST.DETECTIONS_PER_IMAGE detections, so that their heads do the same work. The
    parts are measured in turn, after one round for warming up.

    Args:
        cfg: config of a latent R-CNN with a teacher.
        size: height and width of the image in pixels.
        repeats: number of measured rounds.
        detection_only: leave out training steps.

    Returns:
        a row per `part`, with `median ms`, `fastest ms` and `peak MB` (None if memory cannot be
        read): encode, decode, pixel_detector (on the decoded image; the teacher's forward pass) and
        its pixel_backbone and pixel_heads, latent_detector (on the latent) and its halves,
        train_step (task losses only) and train_step_transfer; and rows with a `ratio` of sums of
        parts.

    Raises:
        CdlError: if the config is not of a latent R-CNN with an R-CNN as teacher.
    """
    if cfg.INPUT.DOMAIN != "latent" or not cfg.MODEL.TEACHER.CONFIG_FILE:
        raise CdlError("the benchmark needs INPUT.DOMAIN latent and MODEL.TEACHER.CONFIG_FILE")
    from cdl_d2.d2.applications.measured_parts import measured_parts  # needs Detectron2

    parts = measured_parts(cfg, size)
    if detection_only:
        parts = {name: part for name, part in parts.items() if not name.startswith("train")}
    return time_parts(parts, torch.device(cfg.MODEL.DEVICE), repeats)


def time_parts(
    parts: Mapping[str, Callable[[], object]], device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """Return the rows of run_benchmark for functions that run on a device."""
    seconds, peaks = {name: [] for name in parts}, {}
    for repetition in tqdm(range(repeats + 1), unit="round"):
        for name, part in parts.items():
            spent, peaks[name] = _measure(part, device)
            if repetition:
                seconds[name].append(spent)
    medians = {name: 1e3 * median(times) for name, times in seconds.items()}
    rows = [
        {
            "part": name,
            "median ms": medians[name],
            "fastest ms": 1e3 * min(seconds[name]),
            "peak MB": peaks[name],
            "ratio": None,
        }
        for name in parts
    ]
    for numerator, denominator in RATIOS:
        if not {*numerator, *denominator} <= parts.keys():
            continue
        name = f"{' + '.join(numerator)} / ({' + '.join(denominator)})"
        ratio = sum(medians[part] for part in numerator) / sum(
            medians[part] for part in denominator
        )
        rows.append(dict.fromkeys(rows[0]) | {"part": name, "ratio": ratio})
    return rows


def _measure(part: Callable, device: torch.device) -> tuple[float, float | None]:
    _reset_peak(device)
    start = time.perf_counter()
    part()
    synchronize(device)
    return time.perf_counter() - start, _peak_mb(device)


def _reset_peak(device: torch.device) -> None:
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu" and Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if device.type != "cpu" or not status.exists():
        return None
    line = next(
        line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024 / 1e6
