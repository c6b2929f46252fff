"""The process group of a training that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the process group if torchrun started this process, and yield this process's device."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()
