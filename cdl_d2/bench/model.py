"""Time and memory of coding, detection and training, measured in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from cdl_d2.codec.codec import UNTRAINED
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.modeling.meta_arch.transfer_rcnn import TransferRCNN
from cdl_d2.d2.modeling.teacher import build_pixel_network, teacher_config
from cdl_d2.errors import CdlError

OBJECTS = 10


def run_benchmark(cfg: CfgNode, size: tuple[int, int], repeats: int) -> list[dict[str, Any]]:
    """Measure the parts of a TransferRCNN on a random image of `size` pixels, batch size 1.

    Weights are random: times of convolutions do not depend on them, but a random detector finds
    next to nothing, so that masks at inference cost less than a trained one's. The parts are
    measured in turn, `repeats` times after one repetition for warming up.

    Returns:
        a row for each `part`, with `median ms`, `fastest ms` and `peak MB` (None where memory
        cannot be read): encode, decode, pixel_detector (on the decoded image; the teacher's forward
        pass), latent_detector (on the latent), train_step (task losses only) and
        train_step_transfer; and two with a `ratio`, to the sum that their name gives.

    Raises:
        CdlError: if the config is not of a latent student with a teacher.
    """
    if cfg.INPUT.DOMAIN != "latent" or not cfg.MODEL.TEACHER.CONFIG_FILE:
        raise CdlError("the benchmark needs INPUT.DOMAIN latent and MODEL.TEACHER.CONFIG_FILE")
    with EventStorage():
        parts = _parts(cfg, size)
        seconds, peaks = {name: [] for name in parts}, {}
        for repetition in tqdm(range(repeats + 1), unit="round"):
            for name, part in parts.items():
                spent, peaks[name] = _measure(part, torch.device(cfg.MODEL.DEVICE))
                if repetition:
                    seconds[name].append(spent)
    medians = {name: 1e3 * median(each) for name, each in seconds.items()}
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
    for part, first in (("latent_detector", "decode"), ("train_step_transfer", "train_step")):
        ratio = medians[part] / (medians[first] + medians["pixel_detector"])
        name = f"{part} / ({first} + pixel_detector)"
        rows.append(dict.fromkeys(rows[0]) | {"part": name, "ratio": ratio})
    return rows


def _parts(cfg: CfgNode, size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CODEC.WEIGHTS = UNTRAINED
    cfg.SOLVER.BASE_LR = 0.0  # steps cost the same, and the random detector does not diverge
    theirs = teacher_config(cfg)
    if theirs.MODEL.RESNETS.NORM == "FrozenBN":  # random weights under a frozen norm overflow
        theirs.MODEL.RESNETS.NORM = "BN"
    teacher = build_pixel_network(theirs).eval()
    student = TransferRCNN(**TransferRCNN.from_config(cfg) | {"teacher": lambda: teacher}).to(
        cfg.MODEL.DEVICE
    )
    optimizer = build_optimizer(cfg, student)
    codec = build_codec(cfg).to(cfg.MODEL.DEVICE)

    item = _random_item(size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    pixels = item["image"].to(cfg.MODEL.DEVICE).flip(0).float() / 255
    latent = codec.encode(pixels)
    encoded = student.encode([item])
    decoded = [{"image": codec.decode(latent).flip(0) * 255}]

    def train(forward: Callable) -> None:
        student.train()
        losses = sum(forward(encoded).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    def detect(network, batch) -> None:
        network.eval()
        with torch.no_grad():
            network(batch)

    return {
        "encode": lambda: codec.encode(pixels),
        "decode": lambda: codec.decode(latent),
        "pixel_detector": lambda: detect(teacher, decoded),
        "latent_detector": lambda: detect(student, encoded),
        "train_step": lambda: train(lambda batch: CompressedRCNN.forward(student, batch)),
        "train_step_transfer": lambda: train(student),
    }


def _random_item(size: tuple[int, int], classes: int) -> dict:
    height, width = size
    corners = torch.rand(OBJECTS, 2) * torch.tensor([width - 200, height - 200])
    boxes = torch.cat([corners, corners + 100 + torch.rand(OBJECTS, 2) * 100], dim=1).round()
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    instances = Instances(size, gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.arange(OBJECTS) % classes
    return {"image": torch.randint(0, 256, (3, *size)), "instances": instances}


def _measure(part: Callable, device: torch.device) -> tuple[float, float | None]:
    _reset_peak(device)
    start = time.perf_counter()
    part()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, _peak_mb(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
