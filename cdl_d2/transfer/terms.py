"""What all transfer losses have in common: lambda, weighted terms, and a distance of features."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from cdl_d2.errors import CdlError
from cdl_d2.transfer.features import DISTANCES


class TransferTerms:
    """Lambda times the weighted terms of a task; the task's own class computes them.

    Args:
        weight: lambda of formula (4).
        weights: of the terms; one that is missing or 0 is left out. Default: all of them, 1.
        distance: of features, `mse` or `l2norm`, see feature_transfer_loss.

    Raises:
        CdlError: for an unknown term or distance, or a weight that is no number from 0 up.
    """

    KNOWN: frozenset[str] = frozenset()

    def __init__(
        self,
        weight: float = 1.0,
        weights: Mapping[str, float] | None = None,
        distance: str = "mse",
    ):
        weights = dict.fromkeys(self.KNOWN, 1.0) if weights is None else weights
        unknown = weights.keys() - self.KNOWN
        if unknown:
            raise CdlError(f"transfer term {min(unknown)!r} is not one of {sorted(self.KNOWN)}")
        if not 0 <= weight < math.inf:
            raise CdlError(f"weight {weight} of all transfer losses is not a number from 0 up")
        if distance not in DISTANCES:
            raise CdlError(f"transfer distance {distance!r} is not one of {DISTANCES}")
        self._weights = {name: weight * value for name, value in weights.items() if weight * value}
        self.distance = distance

    @property
    def terms(self) -> set[str]:
        """The terms that count."""
        return set(self._weights)

    def weighted(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`loss_transfer_<term>`, scalars; terms that do not count are left out."""
        return {
            f"loss_transfer_{name}": self._weights[name] * loss
            for name, loss in losses.items()
            if name in self._weights
        }
