"""Reduced-rank regression (Izenman, *Reduced-rank regression for the multivariate linear model*,
1975): the linear map of at most a rank with the least squared error.

Shapes: n rows, X numbers in a row of inputs, T of targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cdl_d2.errors import CdlError

RIDGE = 1e-5  # times the mean variance of the inputs
ROWS = 4096  # added to the sums at once


@dataclass
class LinearMap:
    """x -> (x reduce) expand + bias.

    Attributes:
        reduce: X x rank; gives numbers of unit variance that do not correlate.
        expand: rank x T.
        bias: T.
        explained: share of the targets' variance, at most 1.
    """

    reduce: torch.Tensor
    expand: torch.Tensor
    bias: torch.Tensor
    explained: float


class Regression:
    """The best linear map of a rank from inputs to targets, of sums in float64 over their rows."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []  # count, sums of x, t, x'x, x't, and of t squared

    def add(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Take n rows into account: inputs n x X, targets n x T."""
        for x, t in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            x, t = x.double(), t.double()
            parts = [x.new_tensor(len(x)), x.sum(0), t.sum(0), x.T @ x, x.T @ t, (t**2).sum(0)]
            for total, part in zip(self._parts, parts, strict=False):
                total += part
            self._parts = self._parts or parts

    def over_processes(self) -> Regression:
        """Return the regression of what all processes of a distributed run have added.

        A process that has added nothing takes part, with zeros.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return self
        shapes = [None] * distributed.get_world_size()
        distributed.all_gather_object(shapes, [part.shape for part in self._parts])
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        known = next(filter(None, shapes), [])
        empty = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in known]
        self._parts = self._parts or empty
        for part in self._parts:
            distributed.all_reduce(part)
        return self

    def solve(self, rank: int) -> LinearMap:
        """The map of at most a rank with the least squared error, and a little ridge.

        Raises:
            CdlError: if nothing was added, fewer rows than there are inputs that are not all
                zero, or numbers that are not finite.
        """
        if not self._parts:
            raise CdlError("a linear map is fitted to data, and there are none")
        if not all(part.isfinite().all() for part in self._parts):
            raise CdlError("a linear map is fitted to numbers of which some are not finite")
        count, sum_x, sum_t, xx, xt, tt = self._parts
        live = int((xx.diagonal() > 0).sum())
        if count < live:
            raise CdlError(
                f"a linear map of {live} numbers is fitted to {int(count)} cells, fewer than it "
                "has unknowns: give more images, or larger ones"
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
        return LinearMap(reduce, expand, mean_t - mean_x @ reduce @ expand, float(explained))
