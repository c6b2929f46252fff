"""What a training needs to go on as if nothing had happened, beside what Detectron2 keeps of it."""

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

WINDOW = 20  # iterations that Detectron2's writers average over


class RunState(HookBase, EventWriter):
    """The last hook and the last writer of a training; its state goes into checkpoints.

    The order of images, and all that is drawn in a step, follow from seed and iteration. Stored
    are the seed, and what Detectron2 leaves out: the scalars that its writers still average over,
    where `metrics.json` ended, and the running mean by which a dense detector divides its losses.

    Args:
        cfg: SEED, below 0 for any; SOLVER.IMS_PER_BATCH and OPTIMIZER; OUTPUT_DIR.
    """

    def __init__(self, cfg: CfgNode):
        self._any_seed = cfg.SEED < 0
        self._seed = comm.shared_random_seed() if self._any_seed else cfg.SEED
        self._batch_size, self._optimizer = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.OPTIMIZER
        self._metrics = Path(cfg.OUTPUT_DIR) / "metrics.json"
        self._kept: int | None = None  # bytes of metrics.json; None for all
        self._bytes, self._written = 0, -1  # of metrics.json, and its last iteration
        self._loaded: dict[str, Any] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether a checkpoint gave it."""
        return bool(self._loaded)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
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
        """Take what `state_dict` gave, for the training that begins next.

        Raises:
            CdlError: if it is of another optimizer.
        """
        theirs = state.get("optimizer", self._optimizer)
        if theirs != self._optimizer:
            raise CdlError(
                f"the checkpoint to go on from has a state of {theirs}, and SOLVER.OPTIMIZER is "
                f"{self._optimizer}: set it as it was, or begin anew in another OUTPUT_DIR with "
                "the checkpoint as MODEL.WEIGHTS"
            )
        self._loaded, self._kept = state, state["metrics_bytes"]
        if self._any_seed:
            self._seed = state["seed"]

    def begin_anew(self) -> None:
        """Drop, when training begins, the metrics that another training left in the folder, and its
        mark of the last checkpoint: an interrupted training must not go on from another's."""
        self._kept = 0

    def before_train(self) -> None:
        """Go on where the checkpoint was written."""
        first, loader = self.trainer.start_iter, self.trainer.data_loader
        if isinstance(loader, TrainingLoader):
            loader.start_at(first, self._seed)
        if first:
            self._warn_of_other_conditions(loader)
        if comm.is_main_process():
            if self._kept == 0:
                self._metrics.with_name("last_checkpoint").unlink(missing_ok=True)
            self._bytes = _cut(self._metrics, self._kept)
        if self._loaded:
            self._restore_scalars(self.trainer.storage)
            if self._loaded["loss_normalizer"] is not None:
                self._model.loss_normalizer = self._loaded["loss_normalizer"]

    def before_step(self) -> None:
        """Seed what the step will draw."""
        seed_all(self._seed, self.trainer.iter, comm.get_rank())

    def write(self) -> None:
        """Nothing; the writers before have just written."""
        self._bytes = self._metrics.stat().st_size if self._metrics.exists() else 0
        self._written = get_event_storage().iter

    @property
    def _model(self):
        return self.trainer.checkpointer.model

    def _conditions(self) -> dict[str, int]:
        """What the order of images depends on, beside config and data."""
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
            reasons.append("the checkpoint, perhaps Detectron2's own, does not say how it ran")
        if not isinstance(loader, TrainingLoader):
            reasons.append("the trainer has another loader, whose images begin anew")
        if reasons:
            logging.getLogger(__name__).warning(
                "weights, optimizer and schedule go on, but not exactly as an uninterrupted "
                f"training would: {'; '.join(reasons)}"
            )

    def _restore_scalars(self, storage: EventStorage) -> None:
        self._written = self._loaded["metrics_written"]
        for name, scalar in self._loaded["scalars"].items():
            for value, iteration in scalar["values"]:
                storage.put_scalar(name, value, scalar["smoothed"], iteration)
            if iteration <= self._written:  # not to be written again
                del storage.latest()[name]


def _recent(history: HistoryBuffer) -> list[tuple[float, int]]:
    """(value, iteration) of what a writer would average over, oldest first."""
    values = history.values()
    first = values[-1][1] - WINDOW + 1
    return list(takewhile(lambda entry: entry[1] >= first, reversed(values)))[::-1]


def _cut(path: Path, size: int | None) -> int:
    """Drop what a file holds behind `size` bytes, and a last line that was torn; the size then."""
    if not path.exists():
        return 0
    end = path.read_bytes()[:size].rfind(b"\n") + 1
    os.truncate(path, end)
    return end
