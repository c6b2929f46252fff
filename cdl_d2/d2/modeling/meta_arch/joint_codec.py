"""A model whose codec learns with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from cdl_d2.codec import Codec, CodecIdentity
from cdl_d2.codec.learning.adversarial import Discriminator
from cdl_d2.codec.learning.distortion import Distortion
from cdl_d2.codec.learning.objective import CodecObjective, frozen
from cdl_d2.codec.learning.perceptual import perceptual_distance
from cdl_d2.codec.learning.rate_control import RateControl
from cdl_d2.codec.learning.trainable import PARTS, CodedImages, TrainableCodec
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.optimizers import Optimizers, adam_of
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodecStamp
from cdl_d2.nn.input.sample import check_image

STEPS = ("joint", "alternate")


@dataclass(frozen=True, eq=False)
class Learning:
    """How a codec learns together with the networks behind it.

    Attributes:
        trained_codec: codes images while training.
        objective: its losses.
        train_task: whether the networks learn.
        steps: `joint`: all that learns does so in every step; `alternate`: the codec in even ones,
            the networks in odd ones.
        tasks_from: the iteration from which on the networks learn; the codec alone does before.

    Raises:
        CdlError: for unknown steps, or if nothing would learn in some.
    """

    trained_codec: TrainableCodec
    objective: CodecObjective
    train_task: bool = True
    steps: str = "joint"
    tasks_from: int = 0

    def __post_init__(self) -> None:
        if self.steps not in STEPS:
            raise CdlError(f"MODEL.JOINT.STEPS {self.steps!r} is not one of {STEPS}")
        train_codec = any(p.requires_grad for p in self.trained_codec.parameters())
        if not (self.train_task or train_codec):
            raise CdlError(f"nothing learns: MODEL.JOINT.TRAIN needs one of {(*PARTS, 'task')}")
        if self.steps == "alternate" and not (self.train_task and train_codec):
            raise CdlError(
                "MODEL.JOINT.STEPS alternate needs 'task' and a part of the codec in "
                "MODEL.JOINT.TRAIN: otherwise nothing learns in every other step"
            )

    def turns(self, iteration: int) -> tuple[bool, bool]:
        """Whether the codec learns in an iteration, and whether the networks do."""
        even = iteration % 2 == 0
        return (True, True) if self.steps == "joint" else (even, not even)


class JointCodec(CompressedModel):
    """Mixin that trains the codec with the model. List it first; call `set_joint_training` last.

    In evaluation, a frozen codec of the present weights encodes, as for every other model. The
    codec's weights are part of the state; `save_artifacts` writes them as a file that MODEL.CODEC.WEIGHTS
    and `--codec-weights` take.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The model's arguments, and `learning`; raises as check_joint and build_learning."""
        check_joint(cfg)
        arguments = super().from_config(cfg)
        return arguments | {"learning": build_learning(cfg, arguments["coded_input"].codec)}

    def set_joint_training(self, learning: Learning) -> None:
        """Say how the codec learns."""
        self.trained_codec, self.objective = learning.trained_codec, learning.objective
        self._learning = learning
        for network in self.task_networks:
            network.requires_grad_(learning.train_task)
        # A state has the codec's weights with it, whatever they have become.
        self.register_state_dict_pre_hook(_stamp_present)
        self.register_load_state_dict_pre_hook(_expect)
        self.register_load_state_dict_post_hook(_encode_as_trained)

    @property
    @abstractmethod
    def task_networks(self) -> Sequence[nn.Module]:
        """What learns behind the codec, which all models of this kind say."""

    def joint_losses(
        self,
        images: torch.Tensor,
        task_losses: Callable[[CodedImages], dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """The losses of the codec and of the tasks, of those whose turn it is.

        Args:
            images: N x 3 x H x W, in 0..255, channels in the order of INPUT.FORMAT.
            task_losses: of what the codec makes of them.
        """
        check_image(images)
        storage = get_event_storage()
        codec_learns, task_learns = self._learning.turns(storage.iter)
        pixels = self.coded_input.swap(images.to(self.device).float() / 255)
        coded, losses = self.trained_codec(pixels), {}
        if codec_learns:
            losses, watched = self.objective(pixels, coded, storage.iter)
            losses["loss_quantiles"] = self.trained_codec.quantile_loss()
            storage.put_scalars(**watched, smoothing_hint=False)
        else:
            coded = coded.detach()
        if storage.iter >= self._learning.tasks_from:
            with frozen(self.task_networks, enabled=not task_learns):
                losses |= task_losses(coded)
        return losses

    def train(self, mode: bool = True) -> JointCodec:
        """As Module.train; evaluation gets a codec of the present weights."""
        super().train(mode)
        if not self._learning.train_task:
            for network in self.task_networks:
                network.eval()  # its statistics stay as they are
        self._encode_as_trained()
        return self

    def build_optimizer(
        self, cfg: CfgNode, default: Callable[[], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """With a learning rate of its own for the codec; another one for a discriminator.

        Raises:
            CdlError: unless SOLVER.OPTIMIZER is a kind of Adam.
        """
        rate, joint = cfg.SOLVER.BASE_LR, cfg.MODEL.JOINT
        adam = adam_of(cfg)
        groups = [{"params": list(each.parameters()), "lr": rate} for each in self.task_networks]
        codec = {"params": self.trained_codec.parameters(), "lr": rate * joint.CODEC_LR_FACTOR}
        model = adam([*(group for group in groups if group["params"]), codec])
        discriminator = self.objective.discriminator
        if discriminator is None:
            return model
        judge = adam(discriminator.parameters(), lr=rate * joint.DISCRIMINATOR_LR_FACTOR)
        return Optimizers({"model": model, "discriminator": judge})

    def save_artifacts(self, folder: Path) -> None:
        """Write the codec's present weights, `codec.safetensors`; warn of a rate that was not
        reached."""
        self.objective.warn_if_missed()
        self.trained_codec.save(folder / "codec.safetensors")

    def _encode_as_trained(self) -> None:
        """Give evaluation a codec of the present weights."""
        if not self.training:
            codec = self.trained_codec.as_codec()
            self.coded_input = replace(self.coded_input, codec=codec)

    def _stamp(self, identity: CodecIdentity | None) -> None:
        """Say which codec the networks read."""
        for module in self.modules():
            if isinstance(module, CodecStamp):
                module.commit(*[identity] if identity else [])


# Hooks are functions of the module: they go with a copy and a pickle of the model.


def _stamp_present(module: JointCodec, *_: Any) -> None:
    module._stamp(module.trained_codec.as_codec().identity)


def _expect(module: JointCodec, state: dict[str, torch.Tensor], *_: Any) -> None:
    """A state with a codec may read any; one without must read the codec of the start."""
    with_codec = any("trained_codec." in key for key in state)
    module._stamp(None if with_codec else module.trained_codec.start)


def _encode_as_trained(module: JointCodec, *_: Any) -> None:
    module._encode_as_trained()


def check_joint(cfg: CfgNode) -> None:
    """Raise CdlError for what cannot be coded while training, or keys of MODEL.JOINT that do not go
    together."""
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
    if cfg.MODEL.CODEC.QUALITIES:
        raise CdlError(
            "joint fine-tuning trains a codec of one quality: leave out MODEL.CODEC.QUALITIES "
            f"(it is {tuple(cfg.MODEL.CODEC.QUALITIES)})"
        )
    partial = ["STEPS alternate"] if joint.STEPS == "alternate" else []
    partial += [key for key in ("TASKS_FROM", "ADVERSARIAL_FROM") if joint[key]]
    if partial and comm.get_world_size() > 1:
        raise CdlError(
            f"MODEL.JOINT.{partial[0]} leaves parameters out of a step, which "
            "DistributedDataParallel does not allow: use one GPU"
        )
    unknown = set(joint.TRAIN) - {*PARTS, "task"}
    if unknown:
        raise CdlError(f"MODEL.JOINT.TRAIN {min(unknown)!r} is not one of {(*PARTS, 'task')}")


def build_learning(cfg: CfgNode, codec: Codec) -> Learning:
    """What MODEL.JOINT says, for the codec where training starts.

    Raises:
        CdlError: as Learning and build_objective.
    """
    joint = cfg.MODEL.JOINT
    parts = [part for part in joint.TRAIN if part != "task"]
    return Learning(
        TrainableCodec(codec, joint.QUANTIZATION, parts),
        build_objective(joint, codec),
        "task" in joint.TRAIN,
        joint.STEPS,
        joint.TASKS_FROM,
    )


def build_objective(joint: CfgNode, codec: Codec) -> CodecObjective:
    """What the keys of MODEL.JOINT say that the codec minimizes.

    Raises:
        CdlError, FileNotFoundError: for weights that make no sense, or if the perceptual network
            cannot be had.
    """
    rate = joint.RATE_WEIGHT
    if joint.TARGET_RATE:
        rate = RateControl(joint.TARGET_RATE, rate, joint.RATE_WEIGHT_BELOW, joint.RATE_FROM)
    weights = joint.MAE_WEIGHT, joint.SSIM_WEIGHT, joint.PERCEPTUAL_WEIGHT
    network = None
    if joint.PERCEPTUAL_WEIGHT:
        network = perceptual_distance(joint.PERCEPTUAL, joint.PERCEPTUAL_FILE)
    discriminator = None
    if joint.ADVERSARIAL_WEIGHT:
        discriminator = Discriminator(codec.latent_channels, joint.DISCRIMINATOR_WIDTH)
    return CodecObjective(
        rate,
        joint.DISTORTION_WEIGHT,
        Distortion(*weights, network) if any(weights) else None,
        discriminator,
        joint.ADVERSARIAL_WEIGHT,
        joint.ADVERSARIAL_FROM,
    )
