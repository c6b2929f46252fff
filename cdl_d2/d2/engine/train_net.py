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
from cdl_d2.device import use_channels_last
from cdl_d2.errors import CdlError, DivergedError
from cdl_d2.files import CONFIG_FILE, is_disk_error, write_json, write_text


@dataclass(frozen=True)
class Training:
    """Arguments of `cdl train`.

    Attributes:
        config: config and data sets.
        resume: continue from, or evaluate, the last checkpoint in OUTPUT_DIR.
        eval_only: evaluate MODEL.WEIGHTS.
        num_gpus: GPUs per machine.
        num_machines: number of machines.
        machine_rank: rank of this machine, from 0.
        dist_url: address for all machines to connect to; `auto` for a free port of this one.
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
            CdlError, OSError: for a bad argument, config or file.
            DivergedError: if the loss becomes infinite or NaN.
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
            raise extract_error(error) or error from error

    def _check_gpus(self) -> None:
        """Raise CdlError unless each of several processes would have a GPU."""
        if self.num_gpus < 2:
            return
        device = read_config(self.config.file, self.config.overrides).MODEL.DEVICE
        if torch.device(device).type != "cuda":
            raise CdlError(f"--num-gpus {self.num_gpus} with MODEL.DEVICE {device}: leave it out")
        if (available := torch.cuda.device_count()) < self.num_gpus:
            raise CdlError(f"--num-gpus {self.num_gpus}: PyTorch finds {available} on this machine")


def extract_error(error: ProcessRaisedException) -> CdlError | None:
    """Return the CdlError that ended a process, or None, from the last line of its traceback."""
    name, _, text = str(error).strip().splitlines()[-1].partition(": ")
    kind = pydoc.locate(name)
    return kind(text) if isinstance(kind, type) and issubclass(kind, CdlError) else None


def run(training: Training) -> dict[str, Any] | None:
    """Train or evaluate in this process; the main process writes `results.json`."""
    cfg = training.config.load()
    with _one_disk_error(cfg.OUTPUT_DIR):
        return _run(training, cfg)


@contextmanager
def _one_disk_error(folder: str) -> Iterator[None]:
    """Turn errors of a full disk into one OSError that names a file or the output folder.

    Tracebacks of log messages that could not be written are suppressed.
    """
    loop, before = logging.getLogger(TrainerBase.__module__), logging.raiseExceptions
    logging.raiseExceptions = False
    loop.addFilter(_is_no_disk_error)
    try:
        yield
    except OSError as error:
        if is_disk_error(error) and not error.filename:
            raise OSError(error.errno, error.strerror, folder) from error
        raise
    finally:
        loop.removeFilter(_is_no_disk_error)
        logging.raiseExceptions = before


def _is_no_disk_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_disk_error(record.exc_info[1]))


def _run(training: Training, cfg: CfgNode) -> dict[str, Any] | None:
    _set_up(training, cfg)
    if training.eval_only:
        results = _evaluate(cfg, training.resume)
    else:
        trainer = Trainer(without_initialization(cfg) if _goes_on(training, cfg) else cfg)
        trainer.resume_or_load(resume=training.resume)
        try:
            results = trainer.train()
        except FloatingPointError as error:
            raise DivergedError(f"{error} Lower SOLVER.BASE_LR.") from error
    if results and comm.is_main_process():
        write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)
    return results


def _set_up(training: Training, cfg: CfgNode) -> None:
    if not (training.eval_only or _goes_on(training, cfg)):
        _check_kept(cfg)
    check_datasets(cfg, with_training=not training.eval_only)
    if cfg.DATASETS.TRAIN and not training.eval_only:
        keep_names(cfg)
    keep_channels(cfg)
    cfg.freeze()
    path, training_config = Path(cfg.OUTPUT_DIR) / CONFIG_FILE, None
    if training.eval_only and path.exists():
        training_config = path.read_text(encoding="utf-8")
    default_setup(cfg, training)  # writes the config
    if training_config is not None and comm.is_main_process():
        write_text(path, training_config)  # an evaluation keeps the config of the training
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="cdl_d2")


def _goes_on(training: Training, cfg: CfgNode) -> bool:
    """Return whether a training resumes from a checkpoint in its folder."""
    return training.resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()


def _check_kept(cfg: CfgNode) -> None:
    """Raise CdlError if a training would overwrite the weights and config that it begins with."""
    weights = Path(cfg.MODEL.WEIGHTS)
    if weights.is_file() and weights.resolve().parent == Path(cfg.OUTPUT_DIR).resolve():
        raise CdlError(
            f"the training would overwrite MODEL.WEIGHTS {weights}, which it begins with: give "
            "another folder, OUTPUT_DIR FOLDER"
        )


def _evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    # In the memory format of a training, for the same digits.
    model = use_channels_last(Trainer.build_model(without_initialization(cfg)))
    checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    last = resume and checkpointer.has_checkpoint()
    load_all_weights(model, checkpointer.get_checkpoint_file() if last else cfg.MODEL.WEIGHTS)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
