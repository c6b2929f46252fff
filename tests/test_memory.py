import multiprocessing
import platform
import resource

import pytest
import torch

from cdl_d2.memory import keep_freed_memory

SIZE = 40 * 2**20  # bytes; by default glibc returns tensors of more than 32 MB
PAGES = SIZE // resource.getpagesize()


def count_page_faults(results):
    """Put the page faults of the last of equal tensors into a queue, with memory kept."""
    kept = keep_freed_memory()
    for _ in range(12):  # glibc keeps the remainders of the first ones apart
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    results.put((kept, faults))


def run_forked(function):
    context = multiprocessing.get_context("fork")  # the setting stays in the child
    results = context.Queue()
    process = context.Process(target=function, args=(results,))
    process.start()
    result = results.get(timeout=60)
    process.join()
    return result


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_tensor_reuses_the_pages_of_a_freed_one(monkeypatch):
    for name in ("MMAP_THRESHOLD", "MMAP_MAX", "TRIM_THRESHOLD"):
        monkeypatch.delenv(f"MALLOC_{name}_", raising=False)
    kept, faults = run_forked(count_page_faults)
    assert kept and faults < PAGES / 16


def test_settings_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
