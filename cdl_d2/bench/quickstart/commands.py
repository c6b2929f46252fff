"""Training commands of the quick start, by backend.

A run's folder has `metrics.json`, `results.json`, `inference/coco_instances_results.json` and
`model_final.pth`, with either backend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE

COMMAND = (sys.executable, "-m", "cdl_d2.cli.main")
CODEC = ("tiny-bmshj2018-hyperprior", 2)
ANCHORS = (16, 32, 64, 128, 256)
RUNS = ("teacher", "decoded", "fitted", "finetuned", "bridge")
UNTRAINED = ("decoded", "fitted")


@dataclass(frozen=True)
class Task:
    """Data and length of the trainings.

    Attributes:
        folder: output folder, with `data/train`, `data/val` and a folder per run of RUNS.
        size: side of the square images in pixels.
        classes: names of the classes.
        iterations: of the teacher, with two images each.
        seed: of data and trainings.
        device: device of the trainings.
    """

    folder: Path
    size: int
    classes: tuple[str, ...]
    iterations: int
    seed: int
    device: str

    def data(self, part: str) -> tuple[str, str]:
        """Return the paths of annotations and images of `train` or `val`."""
        folder = self.folder / "data" / part
        return str(folder / "annotations.json"), str(folder / "images")

    def count_iterations(self, run: str) -> int:
        """Return the iterations of a run; students, initialized from the teacher, get half."""
        if run in UNTRAINED:
            return 0
        return self.iterations if run == "teacher" else (self.iterations + 1) // 2

    def weights(self, run: str) -> str:
        """Return the path of a run's trained weights."""
        return str(self.folder / run / WEIGHTS_FILE)


def torchvision_command(task: Task, run: str) -> list[str]:
    """Return the `cdl train-torchvision` that trains a run (or, for `decoded`, evaluates it)."""
    size = str(task.size)
    command = [*COMMAND, "train-torchvision", "--model", "small"]
    command += ["--train", *task.data("train"), "--val", *task.data("val")]
    command += ["--anchor-sizes", *map(str, ANCHORS)]
    command += ["--short-edges", size, "--short-edge-val", size, "--seed", str(task.seed)]
    command += ["--iterations", str(task.count_iterations(run)), "--device", task.device]
    command += ["--output", str(task.folder / run)]
    codec = ["--codec", CODEC[0], "--quality", str(CODEC[1])]
    if run == "teacher":
        return [*command, "--resume", "--domain", "image"]
    if run == "decoded":
        evaluated = ["--eval-only", task.weights("teacher")]
        return [*command, *evaluated, "--domain", "reconstruction", *codec]
    command += ["--resume", *codec, "--initial-weights", task.weights("teacher")]
    command += ["--domain", "reconstruction"] if run == "finetuned" else ["--bridge", "conv1"]
    if run == "fitted":
        return command
    # foreground masks only, to save time
    return [*command, "--teacher", task.weights("teacher"), "--masks", "foreground"]


def detectron2_command(task: Task, run: str) -> list[str]:
    """Return the `cdl train` that trains a run (or, for `decoded`, evaluates it)."""
    kind = {"teacher": "pixel", "fitted": "bridge", "bridge": "bridge"}
    config = f"detection/small/{kind.get(run, 'reconstruction')}_mask_rcnn_small.yaml"
    command = [*COMMAND, "train", "--config-file", config]
    command += ["--eval-only"] if run == "decoded" else ["--resume"]
    for part in ("train", "val"):
        command += ["--register", part, *task.data(part)]
    iterations = task.count_iterations(run)
    options: dict[str, Any] = {
        "MODEL.DEVICE": task.device,
        "MODEL.ROI_HEADS.NUM_CLASSES": len(task.classes),
        "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in ANCHORS],
        "INPUT.MIN_SIZE_TRAIN": (task.size,),
        "INPUT.MIN_SIZE_TEST": task.size,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": tuple(sorted({int(p * iterations) for p in (0.75, 0.93)} - {0})),
        "SEED": task.seed + 1,  # Detectron2 takes 0 for "any"
        "OUTPUT_DIR": task.folder / run,
    }
    if run != "teacher":
        options["MODEL.WEIGHTS"] = task.weights("teacher")
    if run == "fitted":
        options["MODEL.META_ARCHITECTURE"] = "CompressedRCNN"
    if run in ("finetuned", "bridge"):
        options["MODEL.META_ARCHITECTURE"] = "TransferRCNN"
        options["MODEL.TEACHER.CONFIG_FILE"] = task.folder / "teacher" / CONFIG_FILE
        options["MODEL.TEACHER.WEIGHTS"] = task.weights("teacher")
        options["MODEL.TRANSFER.MASKS"] = "foreground"  # to save time
    return command + [str(word) for option in options.items() for word in option]


Command = Callable[[Task, str], list[str]]
COMMANDS: dict[str, Command] = {
    "detectron2": detectron2_command,
    "torchvision": torchvision_command,
}
