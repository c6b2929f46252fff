"""Optimizer of SOLVER.OPTIMIZER, and several optimizers as one."""

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
    """Build the optimizer of SOLVER.OPTIMIZER.

    Parameter groups, learning rates, weight decay and gradient clipping follow the keys of
    Detectron2's function of this name, which supports SGD only.

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
    return adam_class(cfg)(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def adam_class(cfg: CfgNode) -> type[torch.optim.Optimizer]:
    """Return the Adam class of SOLVER.OPTIMIZER, with the gradient clipping of the config.

    Raises:
        CdlError: for another optimizer.
    """
    if cfg.SOLVER.OPTIMIZER not in ADAM:
        raise CdlError(
            f"SOLVER.OPTIMIZER {cfg.SOLVER.OPTIMIZER!r} is not one of {', '.join(NAMES)}; training "
            f"a codec needs {' or '.join(ADAM)}"
        )
    return maybe_add_gradient_clipping(cfg, ADAM[cfg.SOLVER.OPTIMIZER])


class Optimizers(torch.optim.Optimizer):
    """Several optimizers behind the interface of one, for trainers, schedulers and checkpoints.

    Each keeps its settings, gradient clipping and state.

    Args:
        optimizers: by name; no two share a parameter.
    """

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer]):
        self._optimizers = dict(optimizers)
        super().__init__(self._all_groups(), defaults={})
        # The same dicts, so that a scheduler changes the learning rates of the optimizers.
        self.param_groups = self._all_groups()

    def _all_groups(self) -> list[dict[str, Any]]:
        return [group for o in self._optimizers.values() for group in o.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none)

    def step(self, closure: None = None) -> None:
        for optimizer in self._optimizers.values():
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers, by name."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of the optimizers.

        Raises:
            ValueError: if the state is of optimizers of other names.
        """
        if state_dict.keys() != self._optimizers.keys():
            raise ValueError(f"a state of {list(state_dict)}, not of {list(self._optimizers)}")
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state_dict[name])
        self.param_groups[:] = self._all_groups()
