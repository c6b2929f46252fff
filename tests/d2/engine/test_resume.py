"""A resumed training ends as an uninterrupted one, bit for bit, wherever it was interrupted."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils.env import seed_all_rng

from cdl_d2.d2 import Trainer, build_codec, register_dataset
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.data.class_datasets import register_class_folder
from cdl_d2.data.datasets.synthetic import write_classification
from cdl_d2.errors import CdlError
from tests.conftest import make_coco_dataset
from tests.d2.conftest import CONFIGS, PIXEL, SMALL, small_cfg
from tests.d2.modeling.test_classifier import tiny_cfg
from tests.d2.modeling.test_compressed_dense_detector import RETINANET

CLOCKS = {"time", "data_time", "rank_data_time", "eta_seconds"}
BOXES, CLASSES = "boxes to resume", "classes to resume"
DETECTION = [
    *("DATASETS.TRAIN", (BOXES,), "DATASETS.TEST", (), "SEED", 3),
    *("INPUT.MIN_SIZE_TRAIN", (64, 96), "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", (4,)),
    *("SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.WARMUP_ITERS", 0),
]


def taught(kind, teacher, *options):
    path = CONFIGS / f"detection/small/{kind}_mask_rcnn_small.yaml"
    weights = str(teacher / "teacher.pth")
    given = ["MODEL.TEACHER.CONFIG_FILE", str(teacher / "teacher.yaml"), "MODEL.TEACHER.WEIGHTS"]
    return read_config(path, [*SMALL, *DETECTION, *given, weights, *options])


def bridge(teacher):
    """Evaluated at every checkpoint."""
    start = ["MODEL.WEIGHTS", str(teacher / "teacher.pth"), "MODEL.BRIDGE.FIT_IMAGES", 4]
    tested = ["DATASETS.TEST", (BOXES,), "TEST.EVAL_PERIOD", 2]
    return taught("bridge", teacher, *PIXEL, *start, *tested)


def gate(teacher):
    return taught("latent", teacher, "MODEL.SELECTION.KIND", "gate")


def dense(_):
    """Its losses are divided by a running mean."""
    return small_cfg("pixel", *RETINANET, *DETECTION, "MODEL.BRIDGE.FIT_IMAGES", 4)


def joint(_):
    """A classifier and a codec; long enough for metrics.json to get a line on the way."""
    return tiny_cfg(
        *("joint_classifier", "DATASETS.TRAIN", (CLASSES,), "DATASETS.TEST", (), "SEED", 3),
        *("SOLVER.MAX_ITER", 21, "SOLVER.STEPS", (15,), "SOLVER.CHECKPOINT_PERIOD", 9),
        *("SOLVER.IMS_PER_BATCH", 2, "INPUT.IMAGE_SIZE", 64, "MODEL.CLASSIFIER.NUM_CLASSES", 5),
        *("INPUT.AUGMENTATION", "exact", "MODEL.JOINT.STEPS", "alternate"),
    )


# By kind: the config, and (iteration, where) of interruptions, one after the other. At `late`, the
# iteration's checkpoint is written, and neither its evaluation nor its line of metrics.
KINDS = {
    "bridge": (bridge, [(1, "step"), (3, "late")]),
    "gate": (gate, [(3, "step"), (5, "late")]),
    "dense": (dense, [(3, "step")]),
    "joint": (joint, [(17, "late"), (20, "step")]),
}


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory):
    sizes = [(96, 128), (128, 96), (80, 100), (96, 96), (128, 90)]
    boxes = make_coco_dataset(tmp_path_factory.mktemp("boxes"), sizes=sizes)
    register_dataset(BOXES, *map(str, boxes))
    folder = tmp_path_factory.mktemp("classes")
    list(write_classification(folder, 7, (64, 64)))
    register_class_folder(CLASSES, str(folder))
    yield
    for name in (BOXES, CLASSES):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def uninterrupted(teacher_folder, tmp_path_factory):
    """By kind, the config and the folder of a training."""
    done = {}

    def of(kind):
        if kind not in done:
            cfg, folder = KINDS[kind][0](teacher_folder), tmp_path_factory.mktemp(kind)
            train(cfg, folder)
            done[kind] = cfg, folder
        return done[kind]

    return of


class Interruption(HookBase):
    """Ends a training in an iteration, see KINDS."""

    def __init__(self, iteration, where):
        self._iteration, self._where = iteration, where

    def before_step(self):
        self._stop("step")

    def after_step(self):
        self._stop("late")

    def _stop(self, where):
        if (self.trainer.iter, where) == (self._iteration, self._where):
            raise InterruptedError


def in_folder(cfg, folder):
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def train(cfg, folder, resume=False, interruption=None, trainer_class=Trainer):
    cfg = in_folder(cfg, folder)
    build_codec(cfg)  # draws when a process first loads it
    seed_all_rng(cfg.SEED)  # as default_setup
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume)
    if interruption:
        trainer.register_hooks([interruption])
        hooks = trainer._hooks
        before = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        hooks.insert(before, hooks.pop())
    trainer.train()
    return trainer


def state_of(folder):
    state = torch.load(folder / "model_final.pth", weights_only=True)
    return state["model"], state["trainer"]["_trainer"], state["trainer"]["hooks"]["LRScheduler"]


def metrics_of(folder):
    """The lines of metrics.json, without what a clock said."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [json.dumps({k: v for k, v in line.items() if k not in CLOCKS}) for line in lines]


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(uninterrupted, kind, tmp_path):
    cfg, whole = uninterrupted(kind)
    for place in KINDS[kind][1]:
        with pytest.raises(InterruptedError):
            train(cfg, tmp_path, resume=True, interruption=Interruption(*place))
        with (tmp_path / "metrics.json").open("a") as file:
            file.write('{"iteration": 5, "loss_')
    train(cfg, tmp_path, resume=True)
    assert same(state_of(whole), state_of(tmp_path))
    assert metrics_of(whole) == metrics_of(tmp_path)


def test_a_training_begun_anew_in_the_folder_of_another_goes_on_by_itself(uninterrupted, tmp_path):
    cfg, training = uninterrupted("gate")
    folder = shutil.copytree(training, tmp_path / "folder")
    cfg = cfg.clone()
    cfg.SOLVER.BASE_LR *= 2
    with pytest.raises(InterruptedError):
        train(cfg, folder, interruption=Interruption(1, "step"))
    train(cfg, folder, resume=True)
    assert not same(state_of(folder)[0], state_of(training)[0])
    iterations = [json.loads(line)["iteration"] for line in metrics_of(folder)]
    assert iterations == [json.loads(line)["iteration"] for line in metrics_of(training)]


def test_a_checkpoint_of_detectron2_resumes(teacher_folder, tmp_path):
    cfg = taught("latent", teacher_folder, "MODEL.META_ARCHITECTURE", "CompressedRCNN")
    short = cfg.clone()
    short.SOLVER.MAX_ITER, short.SOLVER.STEPS = 2, ()
    train(short, tmp_path, trainer_class=DefaultTrainer)
    momentum = state_of(tmp_path)[1]["optimizer"]["state"]
    lines = metrics_of(tmp_path)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 2, "loss_')
    trainer = Trainer(in_folder(cfg, tmp_path))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2
    assert same(trainer.optimizer.state_dict()["state"], momentum)
    trainer.train()
    assert metrics_of(tmp_path)[: len(lines)] == lines
    assert json.loads(metrics_of(tmp_path)[-1])["iteration"] == 5


def test_a_training_does_not_go_on_with_another_optimizer(uninterrupted, tmp_path):
    cfg = uninterrupted("gate")[0].clone()
    with pytest.raises(InterruptedError):
        train(cfg, tmp_path, interruption=Interruption(4, "step"))
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    with pytest.raises(CdlError, match=r"SGD.*ADAMW"):
        Trainer(in_folder(cfg, tmp_path)).resume_or_load(resume=True)


def test_a_training_that_is_killed_again_and_again_ends_as_an_uninterrupted_one(
    uninterrupted, tmp_path
):
    (cfg, whole), rng, cut = uninterrupted("joint"), random.Random(0), tmp_path / "cut"
    lines = (whole / "metrics.json").read_text().splitlines()
    duration = cfg.SOLVER.MAX_ITER * json.loads(lines[-1])["time"]
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                train(cfg, cut, resume=True)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.2, 0.9) * duration)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    train(cfg, cut, resume=True)
    assert same(state_of(whole), state_of(cut))
    assert metrics_of(whole) == metrics_of(cut)
