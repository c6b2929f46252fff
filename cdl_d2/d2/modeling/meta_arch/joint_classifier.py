"""A classifier whose codec learns with it (section 2 of the study of vision pipelines)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from cdl_d2.codec import CodecIdentity
from cdl_d2.codec.learning.trainable import PARTS, TrainableCodec
from cdl_d2.d2.modeling.meta_arch.classifier import CompressedClassifier
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodecStamp

STEPS = ("joint", "alternate")


@META_ARCH_REGISTRY.register()
class JointClassifier(CompressedClassifier):
    """Minimizes task * cross entropy + rate * bits per pixel + distortion * squared error.

    In evaluation, a frozen codec of the present weights encodes, as for every other classifier.
    The codec's weights are part of the state; `export` writes them as a file that
    MODEL.CODEC.WEIGHTS and `--codec-weights` take.
    """

    @configurable
    def __init__(
        self,
        *,
        trained_codec: TrainableCodec,
        weights: dict[str, float],
        train_task: bool,
        steps: str,
        **kwargs,
    ):
        """
        Args:
            trained_codec: codes images while training.
            weights: of `task`, `rate` (bits per pixel) and `distortion` (on the 0..255 scale).
            train_task: whether the classifier learns.
            steps: `joint`: all that learns does so in every step; `alternate`: the codec in even
                ones, the classifier in odd ones.
            kwargs: those of CompressedClassifier, of domain `latent`.
        """
        super().__init__(**kwargs)
        if steps not in STEPS:
            raise CdlError(f"MODEL.JOINT.STEPS {steps!r} is not one of {STEPS}")
        self.trained_codec, self._weights, self._steps = trained_codec, weights, steps
        self._train_task = train_task
        self.network.requires_grad_(train_task)
        train_codec = any(p.requires_grad for p in trained_codec.parameters())
        if not (train_task or train_codec):
            raise CdlError(f"nothing learns: MODEL.JOINT.TRAIN needs one of {(*PARTS, 'task')}")
        if steps == "alternate" and not (train_task and train_codec):
            raise CdlError(
                "MODEL.JOINT.STEPS alternate needs 'task' and a part of the codec in "
                "MODEL.JOINT.TRAIN: otherwise nothing learns in every other step"
            )
        # A state has the codec's weights with it, whatever they have become.
        self.register_state_dict_pre_hook(
            lambda module, *_: module._stamp(module.trained_codec.as_codec().identity)
        )
        self.register_load_state_dict_pre_hook(lambda module, state, *_: module._expect(state))
        self.register_load_state_dict_post_hook(lambda module, _: module._encode_as_trained())

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        joint = cfg.MODEL.JOINT
        if cfg.INPUT.DOMAIN != "latent" or cfg.INPUT.LATENT_SOURCE != "model":
            raise CdlError(
                "joint fine-tuning codes images itself: set INPUT.DOMAIN latent and "
                f"INPUT.LATENT_SOURCE model (they are {cfg.INPUT.DOMAIN!r} and "
                f"{cfg.INPUT.LATENT_SOURCE!r})"
            )
        if cfg.MODEL.SELECTION.KIND != "none":
            raise CdlError(
                "joint fine-tuning codes all channels: set MODEL.SELECTION.KIND none (it is "
                f"{cfg.MODEL.SELECTION.KIND!r})"
            )
        if joint.STEPS == "alternate" and comm.get_world_size() > 1:
            raise CdlError(
                "MODEL.JOINT.STEPS alternate leaves parameters out in every step, which "
                "DistributedDataParallel does not allow: use one GPU, or steps joint"
            )
        unknown = set(joint.TRAIN) - {*PARTS, "task"}
        if unknown:
            raise CdlError(f"MODEL.JOINT.TRAIN {min(unknown)!r} is not one of {(*PARTS, 'task')}")
        arguments = super().from_config(cfg)
        parts = [part for part in joint.TRAIN if part != "task"]
        return {
            **arguments,
            "trained_codec": TrainableCodec(
                arguments["coded_input"].codec, joint.QUANTIZATION, parts
            ),
            "weights": {
                "task": joint.TASK_WEIGHT,
                "rate": joint.RATE_WEIGHT,
                "distortion": joint.DISTORTION_WEIGHT,
            },
            "train_task": "task" in joint.TRAIN,
            "steps": joint.STEPS,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """In training `loss_cls`, `loss_rate` and `loss_distortion`, weighted.

        `loss_quantiles` moves nothing but the ranges of the entropy tables.
        """
        if not self.training:
            return super().forward(batched_inputs)
        images = self._stack(batched_inputs, "image") / 255
        coded = self.trained_codec(
            images.flip(1) if self.coded_input.channel_order == "BGR" else images
        )
        latents = [coded.y_hat, coded.scales_hat] if self.coded_input.with_scales else [coded.y_hat]
        alternate = self._steps == "alternate"
        even = not alternate or get_event_storage().iter % 2 == 0
        if alternate and not even:
            latents = [each.detach() for each in latents]
        if self._augmentation is not None:
            latents = self._augmentation(latents, True)
        with frozen(self.network, wanted=alternate and even):
            logits = self.network(*latents)
        task = F.cross_entropy(logits, self.labels(batched_inputs))
        losses = {"loss_cls": self._weights["task"] * task}
        if even:
            losses["loss_rate"] = self._weights["rate"] * coded.bits_per_pixel
            losses["loss_distortion"] = self._weights["distortion"] * coded.distortion
            losses["loss_quantiles"] = self.trained_codec.quantile_loss()
        return losses

    def train(self, mode: bool = True) -> JointClassifier:
        """As Module.train; evaluation gets a codec of the present weights."""
        super().train(mode)
        if not self._train_task:
            self.network.eval()  # its statistics stay as they are
        self._encode_as_trained()
        return self

    def build_optimizer(
        self, cfg: CfgNode, default: Callable[[], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """Adam, with a learning rate of its own for the codec."""
        codec_rate = cfg.SOLVER.BASE_LR * cfg.MODEL.JOINT.CODEC_LR_FACTOR
        groups = [
            {"params": self.network.parameters(), "lr": cfg.SOLVER.BASE_LR},
            {"params": self.trained_codec.parameters(), "lr": codec_rate},
        ]
        return maybe_add_gradient_clipping(cfg, torch.optim.Adam)(groups)

    def export(self, folder: Path) -> None:
        """Write the codec's present weights, `codec.safetensors`."""
        self.trained_codec.save(folder / "codec.safetensors")

    def _encode_as_trained(self) -> None:
        """Give evaluation a codec of the present weights."""
        if not self.training:
            codec = self.trained_codec.as_codec()
            self.coded_input = replace(self.coded_input, codec=codec)

    def _expect(self, state: dict[str, torch.Tensor]) -> None:
        """A state with a codec may read any; one without must read the codec of the start."""
        with_codec = any("trained_codec." in key for key in state)
        self._stamp(None if with_codec else self.trained_codec.start)

    def _stamp(self, identity: CodecIdentity | None) -> None:
        """Say which codec the network reads."""
        for module in self.modules():
            if isinstance(module, CodecStamp):
                module.commit(identity)


@contextmanager
def frozen(network: nn.Module, wanted: bool) -> Iterator[None]:
    """If wanted, gradients pass through a network inside, and nothing of it changes."""
    learning = [p for p in network.parameters() if p.requires_grad] if wanted else []
    training = network.training
    for parameter in learning:
        parameter.requires_grad_(False)
    network.train(training and not wanted)
    try:
        yield
    finally:
        network.train(training)
        for parameter in learning:
            parameter.requires_grad_(True)
