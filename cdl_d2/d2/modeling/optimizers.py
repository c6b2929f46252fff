"""The optimizer of SOLVER.OPTIMIZER, and several as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2 import solver as detectron2_solver
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from cdl_d2.errors import CdlError

ADAM = {"ADAM": torch.optim.Adam, "ADAMW": torch.optim.AdamW}
NAMES = ("SGD", *ADAM)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """As Detectron2's of the same name, which knows SGD alone, for SOLVER.OPTIMIZER; groups of
    parameters, learning rates, weight decay and gradient clipping follow the same keys.

    Raises:
        CdlError: for an unknown SOLVER.OPTIMIZER.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD":
        return detectron2_solver.build_optimizer(cfg, model)
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    return adam_of(cfg)(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def adam_of(cfg: CfgNode) -> type[torch.optim.Optimizer]:
    """The kind of Adam that SOLVER.OPTIMIZER names, with the gradient clipping of the config.

    Raises:
        CdlError: if it names none.
    """
    if cfg.SOLVER.OPTIMIZER not in ADAM:
        raise CdlError(
            f"SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER!r} is not one of {', '.join(NAMES)}; a codec "
            f"that learns needs one of {', '.join(ADAM)}"
        )
    return maybe_add_gradient_clipping(cfg, ADAM[cfg.SOLVER.OPTIMIZER])


class Optimizers(torch.optim.Optimizer):
    """Steps several optimizers together; trainers, schedulers and checkpoints see one.

    Each keeps its own settings, gradient clipping and state.

    Args:
        optimizers: by name; their parameters are not shared.
    """

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer]):
        self._optimizers = dict(optimizers)
        groups = [group for each in self._optimizers.values() for group in each.param_groups]
        super().__init__(groups, defaults={})
        # The same dicts: who changes a learning rate here changes it in the optimizer too.
        self.param_groups = groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of all."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none)

    def step(self, closure: None = None) -> None:
        """Of all."""
        for optimizer in self._optimizers.values():
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """By name."""
        return {name: each.state_dict() for name, each in self._optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of all.

        Raises:
            ValueError: if it is of other optimizers.
        """
        if state_dict.keys() != self._optimizers.keys():
            raise ValueError(f"a state of {list(state_dict)}, not of {list(self._optimizers)}")
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state_dict[name])
        self.param_groups[:] = [g for o in self._optimizers.values() for g in o.param_groups]
