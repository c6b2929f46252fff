"""What every student shares: a teacher that it learns from and does not own."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class Taught:
    """For a student, a module with a `device`, to inherit from; its `__init__` calls `learn_from`.

    The teacher is built at the first training step, or by `prepare_teacher`. It is in eval mode
    without gradients, and outside the student's parameters, state dict and train/eval mode: no
    optimizer, checkpoint, DistributedDataParallel or parameter count sees it.
    """

    def learn_from(self, build: Callable[[], nn.Module], wanted: bool = True) -> None:
        """Say where the teacher comes from.

        Args:
            build: makes the teacher.
            wanted: whether any loss compares with it; if not, it is never built.
        """
        self._build_teacher, self.is_taught = build, wanted
        self._held: list[nn.Module] = []  # a list, which nn.Module does not look into

    def prepare_teacher(self) -> None:
        """Build the teacher now rather than at the first training step; raises what that raises."""
        if self.is_taught and not self._held:
            self._held.append(self._build_teacher().eval().requires_grad_(False))

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher, on the student's device."""
        self.prepare_teacher()
        return self._held[0].to(self.device)
