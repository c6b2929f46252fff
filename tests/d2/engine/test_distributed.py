"""Training on several processes, as Detectron2's launch does it, here on the CPU."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from tests.d2.conftest import make_item, small_model


def train_one_step(rank: int, cfg, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    model = small_model(cfg).train()
    distributed = DistributedDataParallel(model, broadcast_buffers=False)
    boxes = ((8, 8, 40, 40),) if rank == 0 else ()  # one process has nothing to learn from
    with EventStorage():
        losses = distributed([make_item(64, 64, boxes=boxes, seed=rank)])
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    torch.save(gradients, f"{folder}/gradients{rank}.pth")
    dist.destroy_process_group()


def test_processes_share_the_students_gradients_and_nothing_else(transfer_cfg, tmp_path):
    arguments = (transfer_cfg, str(tmp_path / "rendezvous"), str(tmp_path))
    mp.start_processes(train_one_step, arguments, nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"gradients{rank}.pth") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any("teacher" in name or "g_a" in name for name in first)
