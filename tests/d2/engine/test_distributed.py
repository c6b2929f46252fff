"""Training on several processes, as Detectron2's launch does it, here on the CPU."""

import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from cdl_d2.d2 import Trainer
from cdl_d2.d2.engine.run_config import RunConfig
from cdl_d2.d2.engine.train_net import Training, extract_error
from cdl_d2.errors import CdlError, DivergedError
from tests.d2.conftest import CONFIGS, make_item, small_cfg, small_model

PLAIN = ["MODEL.META_ARCHITECTURE", "CompressedRCNN", "SOLVER.MAX_ITER", 1, "TEST.EVAL_PERIOD", 0]


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
    comm.create_local_process_group(2)
    trainer = SyntheticTrainer(small_cfg("latent", *PLAIN, "OUTPUT_DIR", folder))
    trainer.train()
    assert isinstance(trainer.model, DistributedDataParallel)
    weights = {name: p.detach() for name, p in trainer.model.module.named_parameters()}
    torch.save(weights, f"{folder}/weights{rank}.pth")
    dist.destroy_process_group()


class SyntheticTrainer(Trainer):
    """Trainer on another random image in each process."""

    @classmethod
    def build_train_loader(cls, cfg):
        item = make_item(64, 64, boxes=((8, 8, 40, 40),), seed=comm.get_rank())
        return [[item]] * cfg.SOLVER.MAX_ITER


def test_several_gpus_are_counted_before_processes_are_started(monkeypatch):
    config = RunConfig(str(CONFIGS / "detection/small/pixel_mask_rcnn_small.yaml"))
    with pytest.raises(CdlError, match=r"--num-gpus 2 with MODEL\.DEVICE cpu"):
        Training(config, num_gpus=2).launch()
    config = RunConfig(config.file, ["MODEL.DEVICE", "cuda"])
    with pytest.raises(CdlError, match=r"--num-gpus 99"):
        Training(config, num_gpus=99).launch()


def test_the_error_of_a_process_is_that_of_the_training():
    try:
        raise DivergedError("the loss is nan")
    except DivergedError:
        text = f"\n\n-- Process 0 terminated with the following error:\n{traceback.format_exc()}"
    error = extract_error(mp.ProcessRaisedException(text, 0, 1))
    assert isinstance(error, DivergedError) and str(error) == "the loss is nan"


def test_processes_share_gradients_and_need_no_gpu(transfer_cfg, tmp_path):
    arguments = (transfer_cfg, str(tmp_path / "rendezvous"), str(tmp_path))
    mp.start_processes(train_one_step, arguments, nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"gradients{rank}.pth") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any("teacher" in name or "g_a" in name for name in first)
    first, second = (torch.load(tmp_path / f"weights{rank}.pth") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
