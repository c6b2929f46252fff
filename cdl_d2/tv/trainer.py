"""Training of a detector on one or several processes, resumed exactly.

The loop is plain PyTorch: exact resume needs seed, sampler and states in one place, and what
Lightning Fabric would do, DistributedDataParallel and autocast, is ten lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from cdl_d2.codec.io.state_dicts import load_into
from cdl_d2.device import use_channels_last
from cdl_d2.errors import CdlError, DivergedError, check_choice
from cdl_d2.files import WEIGHTS_FILE
from cdl_d2.memory import keep_freed_memory
from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES, fit_bridge
from cdl_d2.seeds import seed_all
from cdl_d2.tv.checkpoint import read_checkpoint, save_detector
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.detector_config import DetectorConfig
from cdl_d2.tv.metrics_log import LossMeans, append_metrics, drop_metrics_from
from cdl_d2.tv.processes import rank_and_world_size
from cdl_d2.tv.schedule import Schedule, TrainingBatches
from cdl_d2.workers import end_with_parent

REPORT_EVERY = 20  # iterations
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer:
    """Training of a detector, alone or as the student of a TransferMaskRCNN.

    Args:
        config: config of `detector`, saved in checkpoints.
        detector: module to save.
        model: module that returns the losses: `detector`, or a TransferMaskRCNN around it.
        dataset: training data.
        output: folder of `checkpoint.pth`, `model_final.pth` and `metrics.json`.
        precision: a key of PRECISIONS.
        workers: number of processes that load data.
        checkpoint_period: iterations between checkpoints.
        settings: other plain values on which the result depends, such as the teacher; saved in
            checkpoints, and must be equal to resume.

    Raises:
        CdlError: if the precision is unknown, or not float32 on a CPU; if the processes cannot
            share a batch; if the seed or the period is too small.
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
        self._rank, self._world_size = rank_and_world_size()
        _check(seed, workers, checkpoint_period, precision, device)
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
        if self._device.type == "cpu":
            keep_freed_memory()
        self._model = model.to(self._device)
        use_channels_last(detector)
        self._optimizer = torch.optim.SGD(
            [p for p in detector.parameters() if p.requires_grad],
            lr=schedule.learning_rate,
            momentum=0.9,
            weight_decay=schedule.weight_decay,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "float16")
        self._start = 0

    def resume(self) -> int:
        """Restore the state in `checkpoint.pth`, if there is one, and return the next iteration.

        Raises:
            CdlError: if the checkpoint's training had another config, schedule or seed.
        """
        path = self._output / "checkpoint.pth"
        if not path.exists():
            return 0
        state = read_checkpoint(path)
        try:
            saved = {"config": state["config"], **state["training"]}
            for name, value in {"config": self._config, **self._training()}.items():
                if saved.get(name) != value:
                    raise CdlError(
                        f"{path} was trained with {name} {saved.get(name)}, not {value}: resume "
                        "with the same arguments, or take another output folder"
                    )
            load_into(self._detector, state["model"], path)
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])
            self._start = range(self._schedule.iterations + 1)[state["iteration"]]
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise CdlError(f"{path} is not a checkpoint to resume from: {error!r}") from error
        return self._start

    def train(self) -> None:
        """Run the remaining iterations, with a progress bar.

        Raises:
            DivergedError: if the loss is not finite.
            CdlError: if a sample cannot be read.
        """
        model, schedule = self._model.train(), self._schedule
        self._fit_bridge()
        if self._world_size > 1:
            model = DistributedDataParallel(model)
        if self._rank == 0:
            drop_metrics_from(self._output, self._start)
        progress = tqdm(
            range(self._start, schedule.iterations),
            initial=self._start,
            total=schedule.iterations,
            unit="step",
            disable=self._rank > 0,
        )
        means = LossMeans()
        for iteration, samples in zip(progress, self._batches(), strict=True):
            means.add(self._step(model, samples, iteration))
            count = iteration + 1
            if count % REPORT_EVERY == 0 or count == schedule.iterations:
                values = means.take() | {"iteration": iteration, "lr": schedule.rate(iteration)}
                progress.set_postfix(loss=f"{values['total_loss']:.3f}")
                if self._rank == 0:
                    append_metrics(self._output, values)
            if count % self._period == 0 and count < schedule.iterations:
                self._save_checkpoint(count)
        self._save_checkpoint(schedule.iterations)
        self._save(WEIGHTS_FILE)

    def _step(self, model: nn.Module, samples: list[dict], iteration: int) -> dict[str, float]:
        # Random numbers depend on the iteration only: resuming needs no random state.
        seed_all(self._seed, iteration, self._rank)
        for group in self._optimizer.param_groups:
            group["lr"] = self._schedule.rate(iteration)
        enabled = self._dtype is not None
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=enabled):
            losses = model(samples)
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
        detector, coded_input = self._detector, self._detector.coded_input
        fit_bridge(
            detector,
            (self._dataset[draw] for draw in chain.from_iterable(self._draws(0, FIT_IMAGES))),
            -(-FIT_IMAGES // self._world_size),
            detector.encode,
            detector.normalize,
            partial(coded_input.encode_by_all, device=self._device),
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
                generator=torch.Generator(),  # else a loader uses up the model's numbers
            )
        )

    def _training(self) -> dict[str, Any]:
        return {
            "schedule": asdict(self._schedule),
            "seed": self._seed,
            "world_size": self._world_size,
            **self._settings,
        }

    def _save(self, name: str, **state: Any) -> None:
        if self._rank == 0:
            detector, training = self._detector.state_dict(), self._training()
            save_detector(self._output / name, self._config, detector, training=training, **state)

    def _save_checkpoint(self, iteration: int) -> None:
        self._save(
            "checkpoint.pth",
            optimizer=self._optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            iteration=iteration,
        )


def _check(seed: int, workers: int, period: int, precision: str, device: str) -> None:
    if min(seed, workers) < 0 or period < 1:
        raise CdlError(
            f"seed {seed}, {workers} workers and checkpoint period {period}: at least 0, 0 and 1 "
            "are needed"
        )
    check_choice("precision", precision, PRECISIONS)
    if precision != "float32" and torch.device(device).type == "cpu":
        raise CdlError(f"precision {precision} needs a GPU: train in float32 on a CPU")
