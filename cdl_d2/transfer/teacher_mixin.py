"""Frozen teacher of a student, outside of the student's module tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cdl_d2.device import network_on, use_channels_last


class TeacherMixin:
    """Mixin for students, modules with a `device`; their `__init__` calls `set_teacher`.

    The teacher is built at the first training step, or by `prepare_teacher`. It is in eval mode
    without gradients, and no part of the student's parameters, state dict and train/eval mode:
    optimizers, checkpoints, DistributedDataParallel and parameter counts ignore it. Copies of a
    student share its teacher; pickled ones keep the argument of `set_teacher`.

    Attributes:
        uses_teacher: a transfer loss is enabled.
    """

    def set_teacher(
        self, teacher: nn.Module | Callable[[], nn.Module], enabled: bool = True
    ) -> None:
        """Set the teacher.

        Args:
            teacher: a network, which is frozen, or a function that builds one.
            enabled: a transfer loss needs it; otherwise it is never built.
        """
        self._late_teacher, self.uses_teacher = _LateTeacher(teacher), enabled

    def check_teacher(self, teacher: nn.Module) -> None:
        """Raise CdlError unless the student can be compared with a teacher."""

    def prepare_teacher(self) -> None:
        """Build the teacher now rather than at the first training step, to raise its errors now."""
        if self.uses_teacher:
            self._late_teacher.build(self.check_teacher)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher, in eval mode, on the student's device."""
        return self._late_teacher.on(self.device, self.check_teacher)


class _LateTeacher:
    """Teacher that is built once for a student and its copies; no nn.Module, to stay hidden."""

    def __init__(self, source: nn.Module | Callable[[], nn.Module]):
        self._source, self._network = source, None
        self._copies: dict[torch.device, nn.Module] = {}

    def build(self, check: Callable[[nn.Module], None]) -> nn.Module:
        """Build, check and freeze the network unless that has succeeded before."""
        if self._network is None:
            ready = isinstance(self._source, nn.Module)
            network = self._source if ready else self._source()
            check(network)
            self._network = use_channels_last(network.eval().requires_grad_(False))
        return self._network

    def on(self, device: torch.device, check: Callable[[nn.Module], None]) -> nn.Module:
        """Return the network, or its copy on another device, in eval mode."""
        network = self._copies[device] = network_on(self.build(check), device)
        return network.eval() if network.training else network

    def __deepcopy__(self, memo: dict[int, Any]) -> _LateTeacher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_source": self._source, "_network": None, "_copies": {}}
