"""Weights and terms that all transfer losses have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from cdl_d2.errors import CdlError
from cdl_d2.transfer.features import DISTANCES


class TransferTerms:
    """Base class of a task's transfer losses: lambda times its weighted terms.

    Args:
        weight: lambda of formula (4) of *Learning in Compressed Domain via Knowledge Transfer*.
        weights: weight of each term, from 0 up; missing terms are left out. None for 1 each.
        distance: distance of features, `mse` or `l2norm` (`feature_transfer_loss`).

    Attributes:
        terms: names of the terms with a weight above 0.
        distance: as in Args.

    Raises:
        CdlError: for an unknown term or distance, or a negative or infinite weight.
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
        self.terms, self.distance = frozenset(self._weights), distance

    def weighted(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weighted `loss_transfer_<term>` of the terms that have a weight."""
        return {
            f"loss_transfer_{name}": self._weights[name] * loss
            for name, loss in losses.items()
            if name in self._weights
        }
