"""Several optimizers, as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


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
