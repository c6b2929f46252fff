"""Steering a codec's training towards a rate."""

from __future__ import annotations

import logging
from collections import deque
from statistics import fmean

from cdl_d2.errors import CdlError

TOLERANCE = 0.1  # of the target
STEPS = 200  # that the rate which was reached is a mean of


class RateControl:
    """The weight of the rate in a loss: a larger one above the target, a smaller one below
    (*High-Fidelity Generative Image Compression*, arXiv 2006.09965, formula 8). The rate that
    decides is the quantized one, that of files; the one in the loss has noise, and is larger.

    Args:
        target: bits per pixel.
        above, below: the weight of a step whose rate is above the target, or is not.
        start: the iteration from which on there is a target; all steps before weigh `below`. A
            codec that starts from random weights otherwise gets rid of its bits before it has
            learned to use them.

    Raises:
        CdlError: for a target that is not above 0; unless 0 <= below < above.
    """

    def __init__(self, target: float, above: float, below: float, start: int = 0):
        if not target > 0:
            raise CdlError(f"a target of {target} bits per pixel is not above 0")
        if not 0 <= below < above:
            raise CdlError(
                f"weights of the rate, {above} above the target and {below} below: the first must "
                "be the larger one, and none below 0"
            )
        self.target, self.above, self.below, self.start = target, above, below, start
        self._rates: deque[float] = deque(maxlen=STEPS)

    def weight(self, bits_per_pixel: float, iteration: int) -> float:
        """Of the rate in the step of an iteration, from 0, that has this rate."""
        self._rates.append(float(bits_per_pixel))
        aimed = iteration >= self.start and bits_per_pixel > self.target
        return self.above if aimed else self.below

    @property
    def reached(self) -> float | None:
        """The mean rate of the last 200 steps, bits per pixel; None before the first."""
        return fmean(self._rates) if self._rates else None

    def warn_if_missed(self) -> None:
        """After a training: warn if the rate is off its target by more than 10 %."""
        reached = self.reached
        if reached is not None and abs(reached - self.target) > TOLERANCE * self.target:
            logging.getLogger(__name__).warning(
                f"the codec has {reached:.4f} bits per pixel, not the {self.target:g} that were "
                f"aimed at: change the weight of the rate (now {self.above:g} above the target and "
                f"{self.below:g} below), or train longer"
            )
