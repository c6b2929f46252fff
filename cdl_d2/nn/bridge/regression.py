"""Reduced-rank regression: the linear map of limited rank with the least squared error.

Izenman, *Reduced-rank regression for the multivariate linear model*, 1975.

Shapes: n rows, X inputs and T targets per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cdl_d2.errors import CdlError

RIDGE = 1e-5  # times the mean variance of the inputs
ROWS = 4096  # added to the sums in one step


@dataclass
class LinearMap:
    """Linear map x -> (x reduce) expand + bias.

    Attributes:
        reduce: X x rank; its outputs are uncorrelated and have unit variance.
        expand: rank x T.
        bias: T.
        mean: T; mean of the targets, and of the map's outputs.
        explained: explained share of the targets' variance, at most 1.
    """

    reduce: torch.Tensor
    expand: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    explained: float


class Regression:
    """Best linear map of limited rank from inputs to targets, by sums over rows in float64."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []  # count, sums of x, t, x'x, x't, and of t squared

    def add(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add n rows: inputs n x X, targets n x T."""
        for x, t in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            x, t = x.double(), t.double()
            parts = [x.new_tensor(len(x)), x.sum(0), t.sum(0), x.T @ x, x.T @ t, (t**2).sum(0)]
            for total, part in zip(self._parts, parts, strict=False):
                total += part
            self._parts = self._parts or parts

    def sum_over_processes(self) -> Regression:
        """Sum over the processes of a distributed run; one without rows contributes zeros."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return self
        shapes = [None] * distributed.get_world_size()
        distributed.all_gather_object(shapes, [part.shape for part in self._parts])
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        shapes = next(filter(None, shapes), [])
        zeros = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
        self._parts = self._parts or zeros
        for part in self._parts:
            distributed.all_reduce(part)
        return self

    def solve(self, rank: int) -> LinearMap:
        """Return the map of at most this rank with the least squared error, with a small ridge.

        Raises:
            CdlError: without rows, with fewer rows than inputs that are not constantly zero, or if
                values are not finite.
        """
        if not self._parts:
            raise CdlError("a linear map cannot be fitted without data")
        if not all(part.isfinite().all() for part in self._parts):
            raise CdlError("a linear map cannot be fitted to values that are not finite")
        count, sum_x, sum_t, xx, xt, tt = self._parts
        live = int((xx.diagonal() > 0).sum())
        if count < live:
            raise CdlError(
                f"a linear map of {live} inputs cannot be fitted to {int(count)} positions, fewer "
                "than it has unknowns: give more images, or larger ones"
            )
        mean_x, mean_t = sum_x / count, sum_t / count
        xx, xt = xx / count - mean_x.outer(mean_x), xt / count - mean_x.outer(mean_t)
        variance = (tt / count - mean_t**2).sum()
        xx.diagonal().add_(RIDGE * xx.diagonal().mean() + torch.finfo(xx.dtype).tiny)
        root = torch.linalg.cholesky(xx)  # x root^-T has unit covariance
        whitened = torch.linalg.solve_triangular(root, xt, upper=False)  # X, T
        values, directions = torch.linalg.eigh(whitened @ whitened.T)  # ascending
        kept = directions[:, -rank:]
        reduce = torch.linalg.solve_triangular(root.T, kept, upper=True)
        expand = kept.T @ whitened
        explained = values[-rank:].sum() / variance
        bias = mean_t - mean_x @ reduce @ expand
        return LinearMap(reduce, expand, bias, mean_t, float(explained))


def list_positions(feature: torch.Tensor) -> torch.Tensor:
    """Return the positions of N x C x h x w as rows, N h w x C."""
    return feature.flatten(2).movedim(1, 2).flatten(0, 1)
