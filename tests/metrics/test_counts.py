"""Counts of parts of a data set, merged, are the counts of all of it."""

import numpy as np
import pytest

from cdl_d2.metrics.attribute_accuracy import AttributeCounts
from cdl_d2.metrics.classification import ClassificationCounts
from cdl_d2.metrics.rate import RateTotals

NAMES = list("abcdefg")
RANDOM = np.random.default_rng(0)
SAMPLES = {
    AttributeCounts: [tuple(RANDOM.random((2, 7)) > 0.5) for _ in range(9)],
    ClassificationCounts: [(RANDOM.dirichlet(np.ones(7)), i % 7) for i in range(9)],
    RateTotals: [(2**i, 100, {"psnr": float(i) if i % 2 else None}) for i in range(9)],
}


def counts_of(kind, samples):
    counts = kind() if kind is RateTotals else kind(len(NAMES))
    for sample in samples:
        counts.add(*sample)
    return counts


def results_of(counts):
    if isinstance(counts, RateTotals):
        return counts.results()
    name = "accuracies" if isinstance(counts, AttributeCounts) else "results"
    return getattr(counts, name)(NAMES)


@pytest.mark.parametrize("kind", SAMPLES)
def test_merged_parts_give_the_results_of_the_whole(kind):
    samples = SAMPLES[kind]
    total = counts_of(kind, samples[:2])
    total.merge(counts_of(kind, samples[2:]))
    assert results_of(total) == pytest.approx(results_of(counts_of(kind, samples)), nan_ok=True)


def test_no_images_have_no_rate_and_no_accuracy():
    assert RateTotals().results() == {}
    with pytest.raises(ValueError, match="no image"):
        ClassificationCounts(2).results(["a", "b"])
