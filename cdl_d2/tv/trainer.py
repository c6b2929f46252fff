"""Training on one or several processes, resumed exactly.

The loop is plain PyTorch: exact resume needs the seed, the sampler and every state in one place,
and what Lightning Fabric would take over, DistributedDataParallel and autocast, is ten lines.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from cdl_d2.errors import CdlError, DivergedError
from cdl_d2.files import WEIGHTS_FILE, read_json_lines, without_nan, write_text
from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES, fit_bridge
from cdl_d2.seeds import seed_all
from cdl_d2.tv.checkpoint import load_all, read_checkpoint, save_detector
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.detector_config import DetectorConfig
from cdl_d2.tv.training_batches import TrainingBatches
from cdl_d2.workers import end_with_parent

REPORT_EVERY = 20  # iterations
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; stochastic gradient descent with momentum 0.9.

    Attributes:
        iterations: steps; with 0, a bridge is fitted, and nothing trained.
        batch_size: images a step, over all processes.
        learning_rate: after `warmup` steps of linear growth.
        decays: shares of the iterations from which on the rate is a tenth of what it was before;
            210,000 and 250,000 of 270,000 (appendix A.4 of *Learning in Compressed Domain via
            Knowledge Transfer*).
        clip: largest norm of the gradient.
    """

    iterations: int = 270_000
    batch_size: int = 16
    learning_rate: float = 0.02
    warmup: int = 1000
    decays: tuple[float, ...] = (210 / 270, 250 / 270)
    weight_decay: float = 1e-4
    clip: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 0), ("batch_size", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise CdlError(f"{name} {getattr(self, name)}: at least {least} is needed")
        if not 0 < self.learning_rate < math.inf:
            raise CdlError(f"learning_rate {self.learning_rate} is not a positive number")

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration."""
        decays = sum(iteration >= round(part * self.iterations) for part in self.decays)
        warm = min(1.0, (iteration + 1) / max(self.warmup, 1))
        return self.learning_rate * warm * 0.1**decays


class Trainer:
    """Trains a detector, alone or inside its TransferMaskRCNN.

    Args:
        config: of `detector`; goes into checkpoints.
        detector: what is saved.
        model: what gives the losses: `detector` itself, or a module around it.
        dataset: to train on.
        output: folder of `checkpoint.pth`, `model_final.pth` and `metrics.json`.
        precision: a key of PRECISIONS.
        workers: processes that load data.
        checkpoint_period: iterations between checkpoints.
        settings: plain values that the result depends on beside those above, such as the teacher;
            they go into checkpoints, and only a training with the same ones resumes.

    Raises:
        CdlError: for a precision that is unknown, or mixed on a CPU; for a batch that the
            processes cannot share; for a seed or period below its least value.
    """

    def __init__(
        self,
        config: DetectorConfig,
        detector: nn.Module,
        model: nn.Module,
        dataset: CocoItems,
        schedule: Schedule,
        output: Path,
        *,
        seed: int = 0,
        device: str = "cpu",
        precision: str = "float32",
        workers: int = 0,
        checkpoint_period: int = 5000,
        settings: Mapping[str, Any] | None = None,
    ):
        if min(seed, workers) < 0 or checkpoint_period < 1:
            raise CdlError(
                f"seed {seed}, {workers} workers and checkpoint period {checkpoint_period}: at "
                "least 0, 0 and 1 are needed"
            )
        if precision not in PRECISIONS:
            raise CdlError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if precision != "float32" and torch.device(device).type == "cpu":
            raise CdlError(f"precision {precision} needs a GPU: train in float32 on a CPU")
        self._rank, self._world_size = rank_and_world_size()
        if schedule.batch_size % self._world_size:
            raise CdlError(
                f"a batch of {schedule.batch_size} images cannot be shared by {self._world_size} "
                "processes"
            )
        self._config, self._detector, self._dataset = config, detector, dataset
        self._schedule, self._output, self._seed = schedule, Path(output), seed
        self._device, self._dtype = torch.device(device), PRECISIONS[precision]
        self._workers, self._period = workers, checkpoint_period
        self._settings = dict(settings or {})
        self._model = model.to(self._device)
        self._optimizer = torch.optim.SGD(
            [p for p in detector.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            momentum=0.9,
            weight_decay=schedule.weight_decay,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "float16")
        self._start = 0

    def resume(self) -> int:
        """Go on from `checkpoint.pth`, if there is one; the iteration that comes next.

        Raises:
            CdlError: if that training had another config, schedule or seed.
        """
        path = self._output / "checkpoint.pth"
        if not path.exists():
            return 0
        state = read_checkpoint(path)
        try:
            theirs = {"config": state["config"], **state["training"]}
            for name, ours in {"config": self._config, **self._training()}.items():
                if theirs.get(name) != ours:
                    raise CdlError(
                        f"{path} was trained with {name} {theirs.get(name)}, not {ours}: resume "
                        "with the same arguments, or take another output folder"
                    )
            load_all(self._detector, state["model"], str(path))
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self._start = range(self._schedule.iterations + 1)[state["iteration"]]
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise CdlError(f"{path} is no checkpoint to resume from: {error!r}") from error
        return self._start

    def train(self) -> None:
        """Run the iterations that are left, with a progress bar.

        Raises:
            DivergedError: if the loss is not finite.
            CdlError: if an item cannot be read.
        """
        model, schedule = self._model.train(), self._schedule
        self._fit_bridge()
        if self._world_size > 1:
            model = DistributedDataParallel(model)
        remaining = range(self._start, schedule.iterations)
        shown = tqdm(remaining, initial=self._start, total=schedule.iterations, unit="step",
                     disable=self._rank > 0)  # fmt: skip
        self._forget_metrics_after(self._start)
        recent: list[dict[str, float]] = []
        before = time.perf_counter()
        for iteration, items in zip(shown, self._batches(), strict=True):
            losses = self._step(model, items, iteration)
            recent.append(losses)
            done = iteration + 1
            if done % REPORT_EVERY == 0 or done == schedule.iterations:
                now = time.perf_counter()
                means = {k: float(np.mean([each[k] for each in recent])) for k in losses}
                means["total_loss"] = sum(means.values())
                means |= {"lr": schedule.rate(iteration), "time": (now - before) / len(recent)}
                self._report({"iteration": iteration, **means})
                shown.set_postfix(loss=f"{means['total_loss']:.3f}")
                recent, before = [], now
            if done % self._period == 0 and done < schedule.iterations:
                self._save("checkpoint.pth", done)
        self._save("checkpoint.pth", schedule.iterations)
        if self._rank == 0:
            save_detector(
                self._output / WEIGHTS_FILE,
                self._config,
                self._detector.state_dict(),
                training=self._training(),
            )

    def _step(self, model: nn.Module, items: list[dict], iteration: int) -> dict[str, float]:
        # All that is drawn in a step follows from its number: resuming needs no random state.
        seed_all(self._seed, iteration, self._rank)
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(iteration)
        enabled = self._dtype is not None
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=enabled):
            losses = model(items)
            total = sum(losses.values())
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(sum(values.values())):
            raise DivergedError(
                f"the loss is not finite at iteration {iteration} ({values}): lower the learning "
                "rate"
            )
        self._optimizer.zero_grad()
        self._scaler.scale(total).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._detector.parameters(), self._schedule.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return values

    def _fit_bridge(self) -> None:
        detector, shown = self._detector, self._detector.coded_input
        batches = chain.from_iterable(self._draws(0, FIT_IMAGES))
        fit_bridge(
            detector,
            (self._dataset[draw] for draw in batches),
            -(-FIT_IMAGES // self._world_size),
            detector.encode,
            detector.normalize,
            partial(shown.encode_by_all, device=self._device),
        )

    def _draws(self, start: int, end: int) -> TrainingBatches:
        return TrainingBatches(
            images=len(self._dataset),
            variants=len(self._dataset.variants),
            batch_size=self._schedule.batch_size // self._world_size,
            seed=self._seed,
            iterations=(start, end),
            rank=self._rank,
            world_size=self._world_size,
        )

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        return iter(
            DataLoader(
                self._dataset,
                batch_sampler=self._draws(self._start, self._schedule.iterations),
                collate_fn=list,
                num_workers=self._workers,
                worker_init_fn=end_with_parent,
                generator=torch.Generator(),  # a loader draws a seed; not from the model's numbers
            )
        )

    def _training(self) -> dict[str, Any]:
        return {
            "schedule": asdict(self._schedule),
            "seed": self._seed,
            "world_size": self._world_size,
            **self._settings,
        }

    def _save(self, name: str, iteration: int) -> None:
        if self._rank == 0:
            save_detector(
                self._output / name,
                self._config,
                self._detector.state_dict(),
                optimizer=self._optimizer.state_dict(),
                scaler=self._scaler.state_dict(),
                training=self._training(),
                iteration=iteration,
            )

    def _forget_metrics_after(self, iteration: int) -> None:
        """Drop what an interrupted run wrote after its last checkpoint."""
        path = self._output / "metrics.json"
        if self._rank == 0 and path.exists():
            kept = [e for e in read_json_lines(path) if e.get("iteration", 0) < iteration]
            write_text(path, "".join(map(_line, kept)))

    def _report(self, values: dict[str, float]) -> None:
        if self._rank == 0:
            append_metrics(self._output, values)


def append_metrics(output: Path, values: dict[str, Any]) -> None:
    """Add a line to `metrics.json`, as Detectron2 writes it."""
    with (output / "metrics.json").open("a", encoding="utf-8") as file:
        file.write(_line(values))


def _line(values: dict[str, Any]) -> str:
    return json.dumps(without_nan(values), sort_keys=True) + "\n"


def rank_and_world_size() -> tuple[int, int]:
    """Which process of how many this is."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; the device of this one."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()
