"""State, beside what Detectron2 stores, from which a training resumes exactly."""

from __future__ import annotations

import logging
import os
from itertools import takewhile
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from fvcore.common.history_buffer import HistoryBuffer

from cdl_d2.d2.data.training_loader import TrainingLoader
from cdl_d2.errors import CdlError
from cdl_d2.seeds import seed_all

WINDOW_ITERATIONS = 20  # over which Detectron2's writers average


class RunState(HookBase, EventWriter):
    """The last hook and the last writer of a training; checkpoints contain its state.

    The order of images and all random numbers of a step follow from seed and iteration. The state
    is the seed, and what Detectron2 omits: the scalars that its writers still average over, the
    size of `metrics.json`, and the running mean by which a dense detector divides its losses.

    Args:
        cfg: config with SEED (below 0 for a random one), SOLVER and OUTPUT_DIR.
    """

    def __init__(self, cfg: CfgNode):
        self._has_random_seed = cfg.SEED < 0
        self._seed = comm.shared_random_seed() if self._has_random_seed else cfg.SEED
        self._batch_size, self._optimizer = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.OPTIMIZER
        self._metrics = Path(cfg.OUTPUT_DIR) / "metrics.json"
        self._kept_bytes: int | None = None  # of metrics.json; None for all
        self._bytes, self._written = 0, -1  # size of metrics.json, and its last iteration
        self._loaded: dict[str, Any] = {}

    @property
    def is_loaded(self) -> bool:
        """True if the state comes from a checkpoint."""
        return bool(self._loaded)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        storage = getattr(self.trainer, "storage", EventStorage())
        return {
            **self._conditions(),
            "optimizer": self._optimizer,
            "scalars": {
                name: {"smoothed": storage.smoothing_hints()[name], "values": _recent(history)}
                for name, history in storage.histories().items()
            },
            "metrics_bytes": self._bytes,
            "metrics_written": self._written,
            "loss_normalizer": getattr(self._model, "loss_normalizer", None),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, when training starts.

        Raises:
            CdlError: for the state of another optimizer.
        """
        optimizer = state.get("optimizer", self._optimizer)
        if optimizer != self._optimizer:
            raise CdlError(
                f"the checkpoint to resume from is of SOLVER.OPTIMIZER {optimizer}, not "
                f"{self._optimizer}: set it as it was, or start anew in another OUTPUT_DIR with "
                "the checkpoint as MODEL.WEIGHTS"
            )
        self._loaded, self._kept_bytes = state, state["metrics_bytes"]
        if self._has_random_seed:
            self._seed = state["seed"]

    def begin_anew(self) -> None:
        """Remove metrics and `last_checkpoint` of another training in the folder, at the start.

        Otherwise a resumed training would continue from the other's checkpoint.
        """
        self._kept_bytes = 0

    def before_train(self) -> None:
        """Restore data order, metrics and scalars of the checkpoint's iteration."""
        first, loader = self.trainer.start_iter, self.trainer.data_loader
        if isinstance(loader, TrainingLoader):
            loader.start_at(first, self._seed)
        if first:
            self._warn_of_other_conditions(loader)
        if comm.is_main_process():
            if self._kept_bytes == 0:
                self._metrics.with_name("last_checkpoint").unlink(missing_ok=True)
            self._bytes = _truncate(self._metrics, self._kept_bytes)
        if self._loaded:
            self._restore_scalars(self.trainer.storage)
            if self._loaded["loss_normalizer"] is not None:
                self._model.loss_normalizer = self._loaded["loss_normalizer"]

    def before_step(self) -> None:
        """Seed the random numbers of the step."""
        seed_all(self._seed, self.trainer.iter, comm.get_rank())

    def write(self) -> None:
        """Note how far the writers before this one have written."""
        self._bytes = self._metrics.stat().st_size if self._metrics.exists() else 0
        self._written = get_event_storage().iter

    @property
    def _model(self):
        return self.trainer.checkpointer.model

    def _conditions(self) -> dict[str, int]:
        """Return what determines the order of images, beside config and data."""
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "processes": comm.get_world_size(),
        }

    def _warn_of_other_conditions(self, loader: object) -> None:
        reasons = [
            f"{name} was {self._loaded.get(name)} and is {value}"
            for name, value in self._conditions().items()
            if self._loaded and self._loaded.get(name) != value
        ]
        if not self._loaded:
            reasons.append("the checkpoint, perhaps Detectron2's own, has no state of the run")
        if not isinstance(loader, TrainingLoader):
            reasons.append("the trainer has another loader, whose order of images starts anew")
        if reasons:
            logging.getLogger(__name__).warning(
                "weights, optimizer and schedule continue, but not exactly as in an uninterrupted "
                f"training: {'; '.join(reasons)}"
            )

    def _restore_scalars(self, storage: EventStorage) -> None:
        self._written = self._loaded["metrics_written"]
        for name, scalar in self._loaded["scalars"].items():
            for value, iteration in scalar["values"]:
                storage.put_scalar(name, value, scalar["smoothed"], iteration)
            if iteration <= self._written:  # do not write it again
                del storage.latest()[name]


def _recent(history: HistoryBuffer) -> list[tuple[float, int]]:
    """Return the pairs of value and iteration that a writer averages over, oldest first."""
    values = history.values()
    first = values[-1][1] - WINDOW_ITERATIONS + 1
    return list(takewhile(lambda entry: entry[1] >= first, reversed(values)))[::-1]


def _truncate(path: Path, size: int | None) -> int:
    """Truncate a file to the whole lines in its first `size` bytes, and return its new size."""
    if not path.exists():
        return 0
    end = path.read_bytes()[:size].rfind(b"\n") + 1
    os.truncate(path, end)
    return end
