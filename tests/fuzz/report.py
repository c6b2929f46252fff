"""Report on the cases of a kind: counts, first failures, and how to repeat them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.case import BAD, GOOD, Kind, Result

MAX_REPORTS = 3  # of failures with the same text
HEAD = ("kind", "cases", *GOOD, *BAD, "cases/s of CPU", "slowest (s)", "most memory (MiB)")


@dataclass
class Tally:
    """Counts of one kind, and CPU times."""

    kind: Kind
    seed: int
    seconds: float = 0.0
    counts: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    memory: int = 0
    _reports: Counter = field(default_factory=Counter)

    def add(self, result: Result) -> str | None:
        """Count a result; return a message for the first failures of each text."""
        self.counts[result.outcome] += 1
        self.seconds += result.seconds
        self.slowest = max(self.slowest, result.seconds)
        self.memory = max(self.memory, result.memory)
        text = result.detail.partition(": ")[0]
        self._reports[text] += 1
        if result.outcome in GOOD or self._reports[text] > MAX_REPORTS:
            return None
        again = f"--seed {self.seed} --kind {self.kind.name} --case {result.case}"
        return f"{result.outcome} ({again}): {result.detail}"

    @property
    def failed(self) -> int:
        """Number of cases with a bad outcome."""
        return sum(self.counts[outcome] for outcome in BAD)

    def row(self) -> str:
        """Return the row of a Markdown table under `head`."""
        cases = sum(self.counts.values())
        counts = [str(self.counts[outcome]) for outcome in (*GOOD, *BAD)]
        rate = f"{cases / self.seconds:.0f}" if self.seconds else ""
        if self.kind.checksum:
            counts[GOOD.index("different")] = "never"
        return _row(self.kind.name, cases, *counts, rate, f"{self.slowest:.2f}", self.memory >> 20)


def head() -> str:
    """Return the first two rows of the table."""
    return f"{_row(*HEAD)}\n{_row(*['---'] * len(HEAD))}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
