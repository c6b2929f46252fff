"""Control of the rate during a codec's training."""

from __future__ import annotations

import logging
from collections import deque
from statistics import fmean

from cdl_d2.errors import CdlError

TOLERANCE = 0.1  # relative to the target
AVERAGED_STEPS = 200


class RateControl:
    """Weight of the rate in a loss, larger above the target than below.

    *High-Fidelity Generative Image Compression*, arXiv 2006.09965, formula 8. The rate compared to
    the target is the quantized one (that of files), not the larger one with additive noise in the
    loss.

    Args:
        target: bits per pixel.
        above: weight in steps whose rate is above the target.
        below: weight in all other steps.
        start: first iteration with a target; earlier steps use `below`. A codec with random weights
            otherwise drops its bits before it has learned to use them.

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
        self._rates: deque[float] = deque(maxlen=AVERAGED_STEPS)

    def weight(self, bits_per_pixel: float, iteration: int) -> float:
        """Record the rate of an iteration, counted from 0, and return its weight."""
        self._rates.append(float(bits_per_pixel))
        exceeds = iteration >= self.start and bits_per_pixel > self.target
        return self.above if exceeds else self.below

    @property
    def reached(self) -> float | None:
        """Mean rate of the last 200 steps in bits per pixel; None before the first."""
        return fmean(self._rates) if self._rates else None

    def warn_if_missed(self) -> None:
        """Log a warning if the reached rate differs from the target by more than 10 %."""
        reached = self.reached
        if reached is not None and abs(reached - self.target) > TOLERANCE * self.target:
            logging.getLogger(__name__).warning(
                f"the codec has {reached:.4f} bits per pixel, the target was {self.target:g}: "
                f"change the weight of the rate (now {self.above:g} above the target and "
                f"{self.below:g} below), or train longer"
            )
