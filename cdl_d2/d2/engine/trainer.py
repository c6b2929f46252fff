"""Detectron2's DefaultTrainer with this project's mapper, evaluators and checkpoints."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
)
from detectron2.engine.hooks import EvalHook, PeriodicWriter
from detectron2.projects.deeplab import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from cdl_d2.d2.building import build_model, naming_config
from cdl_d2.d2.checkpoint import SafeCheckpointer
from cdl_d2.d2.data.coco_datasets import normalize_dataset
from cdl_d2.d2.data.training_loader import TrainingLoader
from cdl_d2.d2.engine.run_state import RunState
from cdl_d2.d2.modeling.backbone.bridged_backbone import BridgedResNet
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.optimizers import build_optimizer
from cdl_d2.d2.tasks import build_evaluator, build_mapper, check_evaluators, get_task
from cdl_d2.device import use_channels_last
from cdl_d2.errors import CdlError, check_choice
from cdl_d2.files import WEIGHTS_FILE
from cdl_d2.memory import keep_freed_memory
from cdl_d2.nn.bridge.linear_bridge import LinearBridge
from cdl_d2.transfer import TeacherMixin

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer(DefaultTrainer):
    """Trainer of models of all tasks.

    Raises:
        CdlError: for an unknown SOLVER.AMP.DTYPE, a negative number of iterations, or a test set
            that cannot be evaluated.
    """

    def __init__(self, cfg: CfgNode):
        check_choice("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, AMP_DTYPES)
        if cfg.SOLVER.MAX_ITER < 0:
            raise CdlError(f"SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER} is below 0")
        if cfg.INPUT.LATENT_SOURCE == "store" and cfg.DATASETS.TEST:
            build_mapper(cfg, is_train=False)  # fail now, not after training
        check_evaluators(cfg)
        TrainerBase.__init__(self)  # DefaultTrainer's needs a GPU per process
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = self.auto_scale_workers(_without_amp_off_cuda(cfg), comm.get_world_size())
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self._build(cfg)
        self.register_hooks(self.build_hooks())

    def _build(self, cfg: CfgNode) -> None:
        """Build model, optimizer, loader and scheduler, in DefaultTrainer's order."""
        if torch.device(cfg.MODEL.DEVICE).type == "cpu":
            keep_freed_memory()
        model = use_channels_last(self.build_model(cfg))
        with naming_config(cfg):
            optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda"
        devices = {} if on_gpu else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **devices)
        if cfg.SOLVER.AMP.ENABLED:
            precision = AMP_DTYPES[cfg.SOLVER.AMP.DTYPE]
            self._trainer = AMPTrainer(model, loader, optimizer, precision=precision)
        else:
            self._trainer = SimpleTrainer(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build and log the model; raise CdlError that names the config if it is wrong."""
        model = build_model(cfg)
        logging.getLogger(__name__).info(f"Model:\n{model}")
        return model

    def build_hooks(self):
        """Return Detectron2's hooks, with a safe checkpointer, and the RunState."""
        self.checkpointer = SafeCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self._run_state = RunState(self.cfg)
        return [*super().build_hooks(), self._run_state]

    def build_writers(self):
        """Return Detectron2's writers, and the RunState."""
        return [*super().build_writers(), self._run_state]

    def resume_or_load(self, resume: bool = True) -> None:
        """Load weights or a checkpoint; fit a linear bridge to training images if it is new."""
        if not (resume and self.checkpointer.has_checkpoint()):
            self._run_state.begin_anew()
        super().resume_or_load(resume)
        if self.cfg.MODEL.WEIGHTS:
            check_bridged_weights(self.checkpointer)
        model = self.checkpointer.model
        if isinstance(model, TeacherMixin):
            model.prepare_teacher()  # fail now, not inside the training loop
        if isinstance(model, CompressedModel):
            share = -(-self.cfg.MODEL.BRIDGE.FIT_IMAGES // comm.get_world_size())
            model.fit_bridge(self._training_items(), share)

    def _training_items(self) -> Iterator[dict[str, Any]]:
        for batch in self.build_train_loader(self.cfg):
            yield from batch

    @classmethod
    def build_optimizer(cls, cfg, model):
        """Return the optimizer of SOLVER.OPTIMIZER, or the one that the model builds itself."""
        default = partial(build_optimizer, cfg, model)
        return (
            model.build_optimizer(cfg, default) if isinstance(model, CompressedModel) else default()
        )

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        """Return a schedule of Detectron2, or the polynomial one of its DeepLab project."""
        if not cfg.SOLVER.MAX_ITER:
            return torch.optim.lr_scheduler.ConstantLR(optimizer)
        with naming_config(cfg):
            return build_lr_scheduler(cfg, optimizer)

    def train(self) -> dict | None:
        """Train, and return the results of the last evaluation.

        With SOLVER.MAX_ITER 0 a bridge is fitted, and nothing trained.
        """
        super().train()
        if not self.max_iter:
            self.checkpointer.save(Path(WEIGHTS_FILE).stem)
        model = self.checkpointer.model
        if isinstance(model, CompressedModel) and comm.is_main_process():
            model.save_artifacts(Path(self.cfg.OUTPUT_DIR))
        return getattr(self, "_last_eval_results", None)

    def before_train(self) -> None:
        """Run the hooks; after resuming, repeat evaluation and logging of the last iteration."""
        super().before_train()
        if self._run_state.is_loaded:
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks:
                if isinstance(hook, EvalHook | PeriodicWriter):
                    hook.after_step()
            # Detectron2 does not time the first steps; the old time would be logged again.
            self.storage.latest().pop("time", None)

    def run_step(self) -> None:
        """Run one iteration, on the CPU without TorchScript's optimization.

        After some calls TorchScript compiles functions such as the focal loss, which then round
        differently; a resumed training on the CPU must repeat every bit.
        """
        with torch.jit.optimized_execution(torch.device(self.cfg.MODEL.DEVICE).type != "cpu"):
            super().run_step()

    @classmethod
    def build_train_loader(cls, cfg):
        return TrainingLoader(cfg, build_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        share = max(cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), 1)
        batch = share if get_task(cfg).of_one_size else 1
        loader = build_detection_test_loader
        normalize_dataset(dataset_name)
        return loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False), batch_size=batch)

    @classmethod
    def test(cls, cfg, model, evaluators=None) -> dict:
        """Evaluate; `model` in the results has the numbers of parameters."""
        results = super().test(cfg, model, evaluators)
        bare = getattr(model, "module", model)  # without DistributedDataParallel
        if results and isinstance(bare, CompressedModel):
            results["model"] = bare.parameter_counts()
        return results

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)


def check_bridged_weights(checkpointer: SafeCheckpointer) -> None:
    """Raise CdlError if the loaded weights lack the layers that a bridge leads into."""
    for name, module in checkpointer.model.named_modules():
        if isinstance(module, LinearBridge) and f"{name}.weight" not in checkpointer.loaded:
            raise CdlError(
                f"MODEL.WEIGHTS lack {name}.weight, or have it in another shape: give those of "
                "the RGB model that the bridge leads into"
            )
        if isinstance(module, BridgedResNet):
            stages = [f"{name}.{stage}." for stage in module.stage_names]
            if not any(key.startswith(tuple(stages)) for key in checkpointer.loaded):
                raise CdlError(
                    f"nothing in MODEL.WEIGHTS fits {', '.join(module.stage_names)} behind the "
                    "bridge: give an RGB model of the same MODEL.RESNETS"
                )


def _without_amp_off_cuda(cfg: CfgNode) -> CfgNode:
    """Return the config, without mixed precision unless on CUDA, which Detectron2 needs for it."""
    if not cfg.SOLVER.AMP.ENABLED or torch.device(cfg.MODEL.DEVICE).type == "cuda":
        return cfg
    logging.getLogger(__name__).warning(
        f"mixed precision needs a CUDA GPU, and MODEL.DEVICE is {cfg.MODEL.DEVICE}: training in "
        "float32"
    )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    cfg.freeze()
    return cfg
