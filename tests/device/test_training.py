"""Trainings on the device, interrupted and resumed, with both backends."""

import importlib.util
from functools import partial

import pytest
import torch

from cdl_d2.codec.io.weights_file import read_weights
from cdl_d2.codec.learning import training
from cdl_d2.codec.learning.training import CodecTraining, train_codec
from cdl_d2.data import Variant
from cdl_d2.transfer import DetectorTransfer
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.schedule import Schedule
from cdl_d2.tv.trainer import Trainer
from cdl_d2.tv.transfer_mask_rcnn import TransferMaskRCNN
from tests.conftest import make_coco_dataset
from tests.second_device import NAME
from tests.tv.conftest import tiny_config, tiny_detector

if importlib.util.find_spec("detectron2"):
    from cdl_d2.d2 import register_dataset
    from tests.d2.conftest import small_cfg
    from tests.d2.engine import test_resume as resume

needs_detectron2 = pytest.mark.skipif(
    not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed"
)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Annotations and images of a data set."""
    folder = tmp_path_factory.mktemp("boxes")
    return make_coco_dataset(folder, sizes=[(64, 96), (96, 64), (64, 64)])


def test_torchvisions_training_resumes(boxes, tmp_path, monkeypatch):
    def trainer(folder):
        data = CocoItems(*boxes, [Variant(64, 96)], training=True)
        student = tiny_detector()
        model = TransferMaskRCNN(student, tiny_detector("image").eval(), DetectorTransfer())
        return Trainer(
            *(tiny_config(), student, model, data, Schedule(3, 2, warmup=0), folder),
            **{"device": NAME, "precision": "bfloat16", "checkpoint_period": 1, "workers": 1},
        )

    def interrupted_step(self, model, items, iteration):
        if iteration == 2:
            raise InterruptedError
        return step(self, model, items, iteration)

    step, whole, cut = Trainer._step, tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    trainer(whole).train()
    monkeypatch.setattr(Trainer, "_step", interrupted_step)
    with pytest.raises(InterruptedError):
        trainer(cut).train()
    monkeypatch.undo()
    resumed = trainer(cut)
    assert resumed.resume() == 2
    resumed.train()
    first, second = (read_weights(folder / "checkpoint.pth") for folder in (whole, cut))
    for part in ("model", "optimizer"):
        assert same(first[part], second[part])


def same(first, second):
    """Tell whether nested values are equal."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return all(map(same, first, second))
    return first == second


def gate_cfg(boxes):
    """A detector with a learned gate that workers encode for; evaluated at the end."""
    register_dataset("boxes of the device", *map(str, boxes))
    return small_cfg(
        *("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN", *resume.DETECTION),
        *("MODEL.SELECTION.KIND", "gate", "INPUT.LATENT_SOURCE", "mapper"),
        *("DATASETS.TRAIN", ("boxes of the device",), "DATASETS.TEST", ("boxes of the device",)),
        *("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.STEPS", (), "DATALOADER.NUM_WORKERS", 1),
        *("SOLVER.AMP.ENABLED", True),
    )


@needs_detectron2
def test_detectron2s_training_resumes(boxes, tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    known = {*DatasetCatalog.list()}
    try:
        cfg = gate_cfg(boxes)
        cfg.SOLVER.MAX_ITER, cfg.MODEL.DEVICE = 3, NAME
        resume.train(cfg, tmp_path / "whole")
        with pytest.raises(InterruptedError):
            interruption = resume.Interruption(2, "step")
            resume.train(cfg, tmp_path / "cut", interruption=interruption)
        resume.train(cfg, tmp_path / "cut", resume=True)
    finally:
        for name in {*DatasetCatalog.list()} - known:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    first, second = (resume.state_of(tmp_path / name) for name in ("whole", "cut"))
    assert same(first, second)


def test_a_codecs_training_resumes(boxes, tmp_path, monkeypatch):
    plan = CodecTraining("tiny-bmshj2018-hyperprior", 1, "mse", 0.01, 2, 1, 64)
    step, whole, cut = training._step, tmp_path / "whole", tmp_path / "cut"
    train = partial(train_codec, plan, boxes[1], device=NAME, checkpoint_every=1)
    train(whole)
    steps = iter([step])
    monkeypatch.setattr(training, "_step", lambda *args: next(steps)(*args))
    with pytest.raises(StopIteration):
        train(cut)
    monkeypatch.undo()
    torch.rand(1, device=NAME)
    train(cut, resume=True)
    first, second = (read_weights(folder / "checkpoint.pth") for folder in (whole, cut))
    assert same(first["network"], second["network"])
