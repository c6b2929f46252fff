"""Train, resume or evaluate with Detectron2, on one or several GPUs or machines."""

from __future__ import annotations

import logging
import pydoc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

from cdl_d2.d2.checkpoint import SafeCheckpointer, load_all_weights
from cdl_d2.d2.config import without_initialization
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.engine.run_config import RunConfig
from cdl_d2.d2.engine.trainer import Trainer
from cdl_d2.d2.modeling.selected_channels import keep_channels
from cdl_d2.d2.tasks import check_datasets, keep_names
from cdl_d2.errors import CdlError, DivergedError
from cdl_d2.files import CONFIG_FILE, is_disk_error, write_json, write_text


@dataclass(frozen=True)
class Training:
    """What `cdl train` is given.

    Attributes:
        resume: go on from the last checkpoint in OUTPUT_DIR, or evaluate it.
        eval_only: evaluate MODEL.WEIGHTS.
        num_gpus: of each machine.
        dist_url: where machines meet; `auto` for a free port of this one.
    """

    config: RunConfig
    resume: bool = False
    eval_only: bool = False
    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    def launch(self) -> None:
        """Run on all GPUs of this machine.

        Raises:
            CdlError, OSError: for what cannot be used.
            DivergedError: if the loss is not finite any more.
        """
        if self.num_machines > 1 and self.dist_url == "auto":
            raise CdlError("several machines need --dist-url, such as tcp://HOST:PORT of the first")
        self._check_gpus()
        try:
            launch(
                run,
                self.num_gpus,
                num_machines=self.num_machines,
                machine_rank=self.machine_rank,
                dist_url=self.dist_url,
                args=(self,),
            )
        except ProcessRaisedException as error:
            raise own_error(error) or error from error

    def _check_gpus(self) -> None:
        """Raise CdlError, before processes are started, unless each has a GPU."""
        if self.num_gpus < 2:
            return
        device = read_config(self.config.file, self.config.overrides).MODEL.DEVICE
        if torch.device(device).type != "cuda":
            raise CdlError(f"--num-gpus {self.num_gpus} with MODEL.DEVICE {device}: leave it out")
        if (there := torch.cuda.device_count()) < self.num_gpus:
            raise CdlError(f"--num-gpus {self.num_gpus}: PyTorch sees {there} on this machine")


def own_error(error: ProcessRaisedException) -> CdlError | None:
    """Return the CdlError that ended a process, from the last line of its traceback; None for
    another error."""
    name, _, text = str(error).strip().splitlines()[-1].partition(": ")
    kind = pydoc.locate(name)
    return kind(text) if isinstance(kind, type) and issubclass(kind, CdlError) else None


def run(training: Training) -> dict[str, Any] | None:
    """Train or evaluate in this process; the first one writes `results.json`."""
    cfg = training.config.load()
    with _disk_errors_of(cfg.OUTPUT_DIR):
        return _run(training, cfg)


@contextmanager
def _disk_errors_of(folder: str) -> Iterator[None]:
    """Let a full disk be one error that names a file, or the folder where Detectron2 writes, and no
    tracebacks of what could not be logged."""
    loop, before = logging.getLogger(TrainerBase.__module__), logging.raiseExceptions
    logging.raiseExceptions = False
    loop.addFilter(_is_news)
    try:
        yield
    except OSError as error:
        if is_disk_error(error) and not error.filename:
            raise OSError(error.errno, error.strerror, folder) from error
        raise
    finally:
        loop.removeFilter(_is_news)
        logging.raiseExceptions = before


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_disk_error(record.exc_info[1]))


def _run(training: Training, cfg: CfgNode) -> dict[str, Any] | None:
    _set_up(training, cfg)
    if training.eval_only:
        results = _evaluate(cfg, training.resume)
    else:
        last = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
        trainer = Trainer(
            without_initialization(cfg) if training.resume and last.is_file() else cfg
        )
        trainer.resume_or_load(resume=training.resume)
        try:
            results = trainer.train()
        except FloatingPointError as error:
            raise DivergedError(f"{error} Lower SOLVER.BASE_LR.") from error
    if results and comm.is_main_process():
        write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)
    return results


def _set_up(training: Training, cfg: CfgNode) -> None:
    check_datasets(cfg, with_training=not training.eval_only)
    if cfg.DATASETS.TRAIN and not training.eval_only:
        keep_names(cfg)
    keep_channels(cfg)
    cfg.freeze()
    trained = Path(cfg.OUTPUT_DIR) / CONFIG_FILE
    before = (
        trained.read_text(encoding="utf-8") if training.eval_only and trained.exists() else None
    )
    default_setup(cfg, training)  # writes the config
    if before is not None and comm.is_main_process():
        write_text(trained, before)  # that of the training is not ours to change
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="cdl_d2")


def _evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    model = Trainer.build_model(without_initialization(cfg))
    checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    last = resume and checkpointer.has_checkpoint()
    load_all_weights(model, checkpointer.get_checkpoint_file() if last else cfg.MODEL.WEIGHTS)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
