"""Weighting of the losses of several tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from cdl_d2.errors import CdlError

WEIGHTINGS = ("fixed", "uncertainty")


class TaskWeighting(nn.Module):
    """Weighted losses of tasks t, L_multi = sum of lambda_t l_t.

    The formula is that of *Analysis on Compressed Domain: A Multi-Task Learning Approach*. With
    `uncertainty`, each task's variance is learned: exp(-s_t) lambda_t l_t + s_t / 2, where
    s_t = log sigma_t^2 is initialized to 0 (Kendall et al., *Multi-Task Learning Using Uncertainty
    to Weigh Losses*, equation 10, for cross entropies).

    Args:
        weights: lambda_t of each task, above 0.
        kind: `fixed` or `uncertainty`.

    Raises:
        CdlError: for an unknown kind, or a weight that is not above 0.
    """

    def __init__(self, weights: Mapping[str, float], kind: str = "fixed"):
        super().__init__()
        if kind not in WEIGHTINGS:
            raise CdlError(f"weighting {kind!r} of tasks is not one of {', '.join(WEIGHTINGS)}")
        for task, weight in weights.items():
            if not weight > 0:
                raise CdlError(f"the weight {weight} of task {task} is not above 0: leave it out")
        self._weights = dict(weights)
        learned = weights if kind == "uncertainty" else ()
        self.log_variances = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(())) for task in learned}
        )

    def forward(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weighted loss of each task; with `uncertainty` it can be negative."""
        weighted = {}
        for task, loss in losses.items():
            weighted[task] = self._weights[task] * loss
            if task in self.log_variances:
                s = self.log_variances[task]
                weighted[task] = torch.exp(-s) * weighted[task] + s / 2
        return weighted
