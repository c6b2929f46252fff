"""Joint training of a codec and a vision model."""

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
from cdl_d2.d2.modeling.optimizers import Optimizers, adam_class
from cdl_d2.errors import CdlError, check_choice
from cdl_d2.nn import CodecStamp
from cdl_d2.nn.input.sample import check_image

STEPS = ("joint", "alternate")


@dataclass(frozen=True, eq=False)
class JointTraining:
    """Parts that are trained, their iterations, and the losses of the codec.

    Attributes:
        trained_codec: the codec, which encodes the training images.
        objective: losses of the codec.
        train_task: True to train the task modules, too.
        steps: `joint` trains both in every iteration; `alternate` the codec in even iterations,
            the task modules in odd ones.
        tasks_from: first iteration with task losses; before, the codec is trained alone.

    Raises:
        CdlError: for unknown steps, or if an iteration would train nothing.
    """

    trained_codec: TrainableCodec
    objective: CodecObjective
    train_task: bool = True
    steps: str = "joint"
    tasks_from: int = 0

    def __post_init__(self) -> None:
        check_choice("MODEL.JOINT.STEPS", self.steps, STEPS)
        train_codec = any(p.requires_grad for p in self.trained_codec.parameters())
        if not (self.train_task or train_codec):
            raise CdlError(f"nothing to train: MODEL.JOINT.TRAIN needs one of {(*PARTS, 'task')}")
        if self.steps == "alternate" and not (self.train_task and train_codec):
            raise CdlError(
                "MODEL.JOINT.STEPS alternate needs 'task' and a part of the codec in "
                "MODEL.JOINT.TRAIN: otherwise every other step trains nothing"
            )

    def trained_in(self, iteration: int) -> tuple[bool, bool]:
        """Return whether an iteration trains the codec, and whether it trains the task modules."""
        even = iteration % 2 == 0
        return (True, True) if self.steps == "joint" else (even, not even)


class JointCodec(CompressedModel):
    """Mixin that trains the codec with the model. List it first; call `set_joint_training` last.

    Evaluation encodes with a frozen codec of the current weights. The codec's weights are part of
    the state dict; `save_artifacts` writes them for MODEL.CODEC.WEIGHTS and `--codec-weights`.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_joint(cfg)
        arguments = super().from_config(cfg)
        training = build_joint_training(cfg, arguments["coded_input"].codec)
        return arguments | {"joint_training": training}

    def set_joint_training(self, joint_training: JointTraining) -> None:
        """Register the codec, and freeze the task modules if they are not trained."""
        self.trained_codec, self.objective = joint_training.trained_codec, joint_training.objective
        self._joint_training = joint_training
        for module in self.task_modules:
            module.requires_grad_(joint_training.train_task)
        # The stamps in a state dict name the codec of the weights that are saved with them.
        self.register_state_dict_pre_hook(_stamp_current_codec)
        self.register_load_state_dict_pre_hook(_stamp_expected_codec)
        self.register_load_state_dict_post_hook(_use_current_codec)

    @property
    @abstractmethod
    def task_modules(self) -> Sequence[nn.Module]: ...

    def joint_losses(
        self,
        images: torch.Tensor,
        task_losses: Callable[[CodedImages], dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Return the losses of this iteration, of the codec and of the tasks.

        Args:
            images: N x 3 x H x W, in 0..255, channels in the order of INPUT.FORMAT.
            task_losses: from the encoded images to the losses of the tasks.
        """
        check_image(images)
        storage = get_event_storage()
        train_codec, train_task = self._joint_training.trained_in(storage.iter)
        pixels = self.coded_input.swap(images.to(self.device).float() / 255)
        coded, losses = self.trained_codec(pixels), {}
        if train_codec:
            losses, scalars = self.objective(pixels, coded, storage.iter)
            losses["loss_quantiles"] = self.trained_codec.quantile_loss()
            storage.put_scalars(**scalars, smoothing_hint=False)
        else:
            coded = coded.detach()
        if storage.iter >= self._joint_training.tasks_from:
            with frozen(self.task_modules, enabled=not train_task):
                losses |= task_losses(coded)
        return losses

    def train(self, mode: bool = True) -> JointCodec:
        """Set the mode; in evaluation, encode with a codec of the current weights."""
        super().train(mode)
        if not self._joint_training.train_task:
            for module in self.task_modules:
                module.eval()  # keeps the statistics of batch normalization
        self._use_current_codec()
        return self

    def build_optimizer(
        self, cfg: CfgNode, default: Callable[[], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """Build an optimizer with a separate learning rate for the codec and the discriminator.

        Raises:
            CdlError: unless SOLVER.OPTIMIZER is a kind of Adam.
        """
        rate, joint = cfg.SOLVER.BASE_LR, cfg.MODEL.JOINT
        adam = adam_class(cfg)
        groups = [{"params": list(m.parameters()), "lr": rate} for m in self.task_modules]
        codec = {"params": self.trained_codec.parameters(), "lr": rate * joint.CODEC_LR_FACTOR}
        model = adam([*(group for group in groups if group["params"]), codec])
        discriminator = self.objective.discriminator
        if discriminator is None:
            return model
        rate *= joint.DISCRIMINATOR_LR_FACTOR
        optimizers = {"model": model, "discriminator": adam(discriminator.parameters(), lr=rate)}
        return Optimizers(optimizers)

    def save_artifacts(self, folder: Path) -> None:
        """Write the codec's weights, `codec.safetensors`; warn if the target rate was missed."""
        self.objective.warn_if_missed()
        self.trained_codec.save(folder / "codec.safetensors")

    def _use_current_codec(self) -> None:
        """Encode with a codec of the current weights, in evaluation."""
        if not self.training:
            codec = self.trained_codec.as_codec()
            self.coded_input = replace(self.coded_input, codec=codec)

    def _stamp(self, identity: CodecIdentity | None) -> None:
        """Stamp the networks with the identity of their codec; None for any."""
        for module in self.modules():
            if isinstance(module, CodecStamp):
                module.commit(*[identity] if identity else [])


# Hooks are functions, not bound methods, so that they are copied and pickled with the model.


def _stamp_current_codec(module: JointCodec, *_: Any) -> None:
    module._stamp(module.trained_codec.as_codec().identity)


def _stamp_expected_codec(module: JointCodec, state: dict[str, torch.Tensor], *_: Any) -> None:
    """Accept any codec with a state that has its weights, else only the initial codec."""
    with_codec = any("trained_codec." in key for key in state)
    module._stamp(None if with_codec else module.trained_codec.start)


def _use_current_codec(module: JointCodec, *_: Any) -> None:
    module._use_current_codec()


def check_joint(cfg: CfgNode) -> None:
    """Raise CdlError unless the keys of MODEL.JOINT fit each other and the rest of the config."""
    joint = cfg.MODEL.JOINT
    if cfg.INPUT.DOMAIN != "latent" or cfg.INPUT.LATENT_SOURCE != "model":
        raise CdlError(
            "joint training encodes images itself: set INPUT.DOMAIN latent and "
            f"INPUT.LATENT_SOURCE model (they are {cfg.INPUT.DOMAIN!r} and "
            f"{cfg.INPUT.LATENT_SOURCE!r})"
        )
    if cfg.MODEL.SELECTION.KIND != "none":
        raise CdlError(
            "joint training encodes all channels: set MODEL.SELECTION.KIND none (it is "
            f"{cfg.MODEL.SELECTION.KIND!r})"
        )
    if cfg.MODEL.CODEC.QUALITIES:
        raise CdlError(
            "joint training is of a codec of one quality: leave out MODEL.CODEC.QUALITIES "
            f"(it is {tuple(cfg.MODEL.CODEC.QUALITIES)})"
        )
    keys = ["STEPS alternate"] if joint.STEPS == "alternate" else []
    keys += [key for key in ("TASKS_FROM", "ADVERSARIAL_FROM") if joint[key]]
    if keys and comm.get_world_size() > 1:
        raise CdlError(
            f"MODEL.JOINT.{keys[0]} leaves parameters out of a step, which "
            "DistributedDataParallel does not allow: use one GPU"
        )
    unknown = set(joint.TRAIN) - {*PARTS, "task"}
    if unknown:
        raise CdlError(f"MODEL.JOINT.TRAIN {min(unknown)!r} is not one of {(*PARTS, 'task')}")


def build_joint_training(cfg: CfgNode, codec: Codec) -> JointTraining:
    """Build the JointTraining of MODEL.JOINT, from the initial codec."""
    joint = cfg.MODEL.JOINT
    parts = [part for part in joint.TRAIN if part != "task"]
    return JointTraining(
        TrainableCodec(codec, joint.QUANTIZATION, parts),
        build_objective(joint, codec),
        "task" in joint.TRAIN,
        joint.STEPS,
        joint.TASKS_FROM,
    )


def build_objective(joint: CfgNode, codec: Codec) -> CodecObjective:
    """Build the codec's losses from the node MODEL.JOINT.

    Raises:
        CdlError, FileNotFoundError: for impossible weights, or if the perceptual network cannot be
            loaded.
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
