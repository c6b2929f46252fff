import itertools
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from cdl_d2.errors import CdlError
from cdl_d2.workers import PlainlyPickled, load_in_workers, read_job_part, usable_cores


class Squares(PlainlyPickled, Dataset):
    """Squares by number, with more tensors than a fork server accepts file descriptors."""

    def __init__(self):
        self.terms = [torch.ones(1) for _ in range(300)]

    def __getitem__(self, key):
        return int(sum(self.terms[:key])) * key


class LargeResults(Dataset):
    """Results larger than a pipe; every process that has the dataset keeps `alive` open."""

    def __init__(self, alive):
        self.alive = alive

    def __getitem__(self, key):
        return bytes(1 << 20)


def load_and_wait(alive, method):
    multiprocessing.forkserver._forkserver._forkserver_pid = None  # another process's
    workers = 2 if method == "fork" else 1  # forked ones hold each other's pipes
    results = load_in_workers(LargeResults(alive), itertools.count(), workers, method)
    next(results)
    alive.send("loading")
    time.sleep(60)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_results_are_in_order_and_keys_are_read_lazily(method):
    keys = itertools.count(1)
    results = load_in_workers(Squares(), keys, 1, method)
    assert list(itertools.islice(results, 4)) == [1, 4, 9, 16]
    assert next(keys) <= 4 + 2 + 1


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_end_when_their_parent_is_killed(method):
    reader, alive = multiprocessing.Pipe(duplex=False)
    parent = multiprocessing.get_context("fork").Process(target=load_and_wait, args=(alive, method))
    parent.start()
    alive.close()
    assert reader.recv() == "loading"
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert reader.poll(timeout=20), "a worker is alive"
    with pytest.raises(EOFError):
        reader.recv()


def test_usable_cores_are_counted_on_every_system(monkeypatch):
    assert 1 <= usable_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()


SLURM = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        (SLURM, (2, 4)),
        ({**SLURM, "SLURM_ARRAY_TASK_STEP": "2"}, (1, 4)),
    ],
)
def test_the_part_of_a_job_is_named_or_comes_from_torchrun_or_slurm(environment, part):
    assert read_job_part(None, environment) == part
    assert read_job_part("2/5", environment) == (2, 5)


@pytest.mark.parametrize("text", ["2/2", "half", "-1/2", "1", "1/2/3"])
def test_a_part_that_does_not_exist_is_an_error(text):
    with pytest.raises(CdlError, match=text):
        read_job_part(text)
