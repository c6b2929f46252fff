"""Distillation without labels: a converted network reproduces its RGB network on images.

The student sees images through the codec, the teacher the originals. Features of both are compared
at several depths, as in *FitNets* (arXiv 1412.6550), and the outputs, as in *Distilling the
Knowledge in a Neural Network* (arXiv 1503.02531).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.codec.io.weights_file import read_weights, save_checkpoint
from cdl_d2.conversion.blocks import Depths
from cdl_d2.conversion.losses import feature_loss, output_loss
from cdl_d2.conversion.proposal_labels import ProposalLabels
from cdl_d2.device import device_of
from cdl_d2.errors import CdlError, check_choice
from cdl_d2.memory import keep_freed_memory
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.linear_bridge import LinearBridge

ADAPT = {"bridge": 0.0, "first-third": 1 / 3, "half": 0.5, "all": 1.0}  # share of the layers
STATE_FILE = "distillation.pth"  # of a run whose result is not written yet
CHECKS = 10  # validations in a run
WARM_UP = 0.05  # share of the run in which the learning rate rises
LARGEST_NORM = 5.0  # of the gradient

Images = Sequence[torch.Tensor]


class Runnable(Protocol):
    """A module that runs on images, 3 x H x W, uint8, such as an ImageNetwork."""

    def run(self, images: Images) -> Any:
        """Return the network's output."""


@dataclass(frozen=True)
class DistillationOptions:
    """Options of a distillation.

    Attributes:
        iterations: number of batches at most; 0 for none.
        minutes: time limit; 0 for none.
        batch_size: images per batch.
        adapt: layers that learn at the whole rate: the `bridge`, the `first-third` with it, `half`,
            or `all`.
        learning_rate: of AdamW for these layers.
        later_rate: share of the learning rate at which later layers learn; 0 to keep them.
        bridge_rate: share of the learning rate at which a bridge to the first convolution learns,
            whose decoder layers have small weights.
        seed: of batches and augmentation.
        patience: validations without a better loss after which the run ends, in the second half of
            the budget; 0 for no such end.

    Raises:
        CdlError: for a value that is not one of these, or a number below 0.
    """

    iterations: int = 400
    minutes: float = 0.0
    batch_size: int = 8
    adapt: str = "first-third"
    learning_rate: float = 2e-4
    later_rate: float = 0.1
    bridge_rate: float = 0.1
    seed: int = 0
    patience: int = 3

    def __post_init__(self) -> None:
        check_choice("adapt", self.adapt, ADAPT)
        for name, value in asdict(self).items():
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise CdlError(f"{name} {value} of a distillation is not a number from 0 up")
        if self.batch_size < 1:
            raise CdlError(f"batch_size {self.batch_size} of a distillation is not 1 or more")


class Distillation:
    """Training of a student's first layers to reproduce a teacher.

    Normalizations keep their statistics. The student ends with the weights of the lowest validation
    loss in the second half of the budget, or with those it began with. Before, at a high learning
    rate, the loss varies too much to choose by it.

    Args:
        student: on latents or decoded images; blocks have the teacher's names.
        teacher: RGB network on the original images.
        draw_batch: function from the number of an iteration to its images.
        validation: batches of images that no step uses.
        options: options.
        folder: where the state is kept, even of a run that has ended, until the caller has written
            the result and removes STATE_FILE; None for nowhere. A run with the same options,
            student and teacher goes on from it.
        labels: of the student's proposal network, which then learns from them at the whole rate and
            does not reproduce the teacher's; None if it does.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        draw_batch: Callable[[int], Images],
        validation: Sequence[Images],
        options: DistillationOptions,
        folder: Path | None = None,
        labels: ProposalLabels | None = None,
    ):
        self._student, self._teacher = student, teacher.eval().requires_grad_(False)
        self._draw_batch, self._validation, self._options = draw_batch, validation, options
        self._file = folder and folder / STATE_FILE
        self._labels = labels
        left_out = {labels.module} if labels else set()
        self._depths = Depths(teacher, lambda: teacher.run(validation[0][:1]), left_out)
        self._groups = self._select_parameters()
        self._parameters = {k: p for group in self._groups.values() for k, p in group.items()}
        self._iteration, self._seconds, self._begin = 0, 0.0, 0.0
        self.history: list[dict[str, float]] = []

    def run(self) -> list[dict[str, float]]:
        """Train, and return the validation losses.

        These are `iteration`, `progress` (the used share of the budget), `loss`, `features` and
        `output`.
        """
        groups = [
            {"params": list(parameters.values()), "share": share}
            for share, parameters in self._groups.items()
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        if device_of(self._student).type == "cpu":
            keep_freed_memory()
        self._student.train(False)
        self._set_memory_format(torch.channels_last)  # a fifth faster on CPUs
        self._begin = time.monotonic()
        best = self._resume(optimizer) or self._checked(None)
        self._begin = time.monotonic() - self._seconds
        check, options = len(self.history), self._options
        total, unit = (100, "%") if options.minutes else (options.iterations, " batch")
        with tqdm(total=total, desc="distil", unit=unit) as progress:
            while (done := self._used_share()) < 1 and not self._is_stale():
                progress.update(round(total * done) - progress.n)
                self._step(optimizer, done)
                self._iteration += 1
                if self._used_share() * CHECKS >= check:
                    check += 1
                    best = self._checked(best)
                    self._seconds = time.monotonic() - self._begin
                    self._save(optimizer, best)
                    progress.set_postfix(loss=f"{self.history[-1]['loss']:.4f}")
            progress.update(round(total * min(1, done)) - progress.n)
        self._load(best)
        self._set_memory_format(torch.contiguous_format)
        return self.history

    def _set_memory_format(self, memory_format: torch.memory_format) -> None:
        for network in (self._student, self._teacher):
            network.to(memory_format=memory_format)

    def _used_share(self) -> float:
        """Return the used share of the budget."""
        options, seconds = self._options, time.monotonic() - self._begin
        shares = [self._iteration / options.iterations if options.iterations else 0]
        shares += [seconds / 60 / options.minutes if options.minutes else 0]
        return max(shares) if options.iterations or options.minutes else 1.0

    def _step(self, optimizer: torch.optim.Optimizer, done: float) -> None:
        rate = self._options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * rate * min(1.0, (done + 1e-3) / WARM_UP)
        features, output = self._losses(self._draw_batch(self._iteration))
        optimizer.zero_grad()
        (features + output).backward()
        norm = nn.utils.clip_grad_norm_(self._parameters.values(), LARGEST_NORM)
        if not norm.isfinite():
            raise CdlError(
                f"the loss is not finite after {self._iteration} iterations: lower the learning "
                f"rate of {self._options.learning_rate}"
            )
        optimizer.step()

    def _losses(self, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of features and of outputs."""
        depths, labels = self._depths, self._labels
        with labels.recorded() if labels else nullcontext():
            with torch.no_grad(), depths.recorded(self._teacher) as expected:
                expected_output = self._teacher.run(images)
            with depths.recorded(self._student, expected) as record:
                output = self._student.run(images)
        features = feature_loss(depths.features(record), depths.features(expected))
        outputs = output_loss(
            depths.outputs(record, output), depths.outputs(expected, expected_output)
        )
        return features, outputs + (labels.loss() if labels else 0)

    @torch.no_grad()
    def _checked(self, best: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """Validate, and return the best weights so far."""
        losses = [[float(loss) for loss in self._losses(batch)] for batch in self._validation]
        features, output = (sum(column) / len(losses) for column in zip(*losses, strict=True))
        values = {"iteration": self._iteration, "progress": self._used_share()}
        values |= {"features": features, "output": output, "loss": features + output}
        self.history.append(values)
        candidates = [self.history[0], *self._late_checks()]
        if best is None or min(candidates, key=lambda check: check["loss"]) is values:
            return {name: p.detach().clone() for name, p in self._parameters.items()}
        return best

    def _select_parameters(self) -> dict[float, dict[str, nn.Parameter]]:
        """Return the parameters that learn, by share of the learning rate and name.

        The others get no gradients.
        """
        student, options = self._student, self._options
        layers = self._depths.first_layers(ADAPT[options.adapt])
        labelled = (f"{self._labels.module}.",) if self._labels else ()
        bridges = {
            f"{name}.": options.bridge_rate if isinstance(module, LinearBridge) else 1.0
            for name, module in student.named_modules()
            if isinstance(module, Bridge | LinearBridge)  # the fit of a Bridge explains less
        }
        groups: dict[float, dict[str, nn.Parameter]] = {}
        for name, parameter in student.named_parameters():
            is_first = options.adapt == "all" or name.rpartition(".")[0] in layers
            share = 1.0 if is_first or name.startswith(labelled) else options.later_rate
            shares = (rate for bridge, rate in bridges.items() if name.startswith(bridge))
            share = next(shares, share)
            if parameter.requires_grad_(share > 0).requires_grad:
                groups.setdefault(share, {})[name] = parameter
        if not groups:
            raise CdlError(f"adapt {options.adapt!r} selects no layer of {type(student).__name__}")
        return groups

    @torch.no_grad()
    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    def _late_checks(self) -> list[dict[str, float]]:
        return [check for check in self.history if check["progress"] >= 0.5]

    def _is_stale(self) -> bool:
        late = [check["loss"] for check in self._late_checks()]
        return bool(late) and len(late) - 1 - late.index(min(late)) >= self._options.patience > 0

    def _save(self, optimizer: torch.optim.Optimizer, best: dict[str, torch.Tensor]) -> None:
        if self._file:
            content = {
                **self._describe_run(),
                "model": {name: p.detach() for name, p in self._parameters.items()},
                **{"best": best, "optimizer": optimizer.state_dict(), "history": self.history},
                **{"iteration": self._iteration, "seconds": self._seconds},
            }
            save_checkpoint(self._file, content)

    def _describe_run(self) -> dict[str, Any]:
        """Return what must be equal in a run that goes on from a file."""
        return {"options": asdict(self._options), "teacher": fingerprint(self._teacher)}

    def _resume(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor] | None:
        """Restore an interrupted run, and return its best weights; None if there is none."""
        if not (self._file and self._file.is_file()):
            return None
        content = read_weights(self._file)
        for name, value in self._describe_run().items():
            if content[name] != value:
                raise CdlError(
                    f"{self._file} is of a run with other {name}, {content[name]}: repeat it, or "
                    "remove the file"
                )
        self._load(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        self.history, self._iteration = content["history"], content["iteration"]
        self._seconds = content["seconds"]
        return content["best"]
