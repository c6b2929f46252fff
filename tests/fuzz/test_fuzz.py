"""A few cases of each kind, and the classification of outcomes."""

import mmap
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from cdl_d2.errors import CdlError
from tests.fuzz.case import (
    BAD,
    CRASH,
    DIFFERENT,
    EQUAL,
    HANG,
    MEMORY,
    REFUSED,
    SILENT,
    TOO_MUCH,
    UNCAUGHT,
    Kind,
    same,
)
from tests.fuzz.kinds import KINDS
from tests.fuzz.mutations import mutate_bytes, mutate_values
from tests.fuzz.report import Tally
from tests.fuzz.workers import run_cases

if not Path("/proc/self/statm").exists():
    pytest.skip("memory is measured by Linux' /proc", allow_module_level=True)
CASES = 10


@pytest.mark.parametrize("name", KINDS)
def test_a_corrupted_file_does_no_harm(name):
    results = list(run_cases(KINDS[name], 1, range(CASES)))
    assert sorted(result.case for result in results) == list(range(CASES))
    assert not [result for result in results if result.outcome in BAD]


FIXED = [  # cases of seed 0 that once failed
    *[("annotations", 317), ("image", 1465), ("card", 641)],
    *[("pickle", 3297), ("forged-checkpoint", 3348)],
]


@pytest.mark.parametrize(("name", "case"), [case for case in FIXED if case[0] in KINDS])
def test_fixed_cases_do_not_fail_again(name, case):
    assert [result for result in run_cases(KINDS[name], 0, [case]) if result.outcome in BAD] == []


@pytest.mark.parametrize("name", KINDS)
def test_a_case_is_the_same_file_every_time(name):
    kind, again = KINDS[name], replace(KINDS[name])  # writes its own files
    for case in range(3):
        assert kind.content_of(2, case) == again.content_of(2, case)
    assert len({kind.content_of(seed, case) for seed in range(3) for case in range(5)}) > 5


def _refuse(name, content, folder):
    raise CdlError("no")


def _stumble(name, content, folder):
    raise KeyError("a")


def _hang(name, content, folder):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    time.sleep(60)


def _fill(name, content, folder):
    pages = np.frombuffer(mmap.mmap(-1, MEMORY + 2**20), np.uint8)  # none that were freed before
    pages[:] = 1
    return len(pages)


def _want_everything(name, content, folder):
    try:
        np.ones(2**40)
    except MemoryError as error:
        raise CdlError("no") from error


OUTCOMES = {  # with functions that read a file so
    "equal": (EQUAL, lambda *_: 1, True),
    "different": (DIFFERENT, lambda *_: 2, False),
    "different in spite of a checksum": (SILENT, lambda *_: 2, True),
    "refused": (REFUSED, _refuse, True),
    "a bug": (UNCAUGHT, _stumble, True),
    "a crash": (CRASH, lambda *_: os.abort(), True),
    "a hang": (HANG, _hang, True),
    "memory": (TOO_MUCH, _fill, True),
    "memory that does not exist": (TOO_MUCH, _want_everything, True),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_outcome_is_recognized_and_the_next_case_runs(name):
    outcome, read, checksum = OUTCOMES[name]

    def read_one(name, content, folder):
        return 1 if content == b"genuine" else read(name, content, folder)

    files = {"a": b"genuine"}
    kind = Kind("made-up", lambda: files, lambda rng, _: rng.randbytes(8), read_one, checksum)
    tally = Tally(kind, 0)
    for result in run_cases(kind, 0, range(2), limit=1 if outcome == HANG else 60):
        tally.add(result)
    assert tally.counts == {outcome: 2}
    assert tally.failed == (2 if outcome in BAD else 0)


def test_mutations_change_content():
    content, tree = bytes(range(200)), {"a": [1, 2.5, "x"], "b": {"c": torch.ones(3)}}
    assert sum(mutate_bytes(Random(i), content) != content for i in range(50)) > 45
    assert sum(not same(mutate_values(Random(i), tree), tree) for i in range(50)) > 40
    assert same(tree, {"a": [1, 2.5, "x"], "b": {"c": torch.ones(3)}})
