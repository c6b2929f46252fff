"""Detectron2's own DefaultTrainer on our configs: what they ask for is done, or refused."""

import shutil

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer

from cdl_d2.d2 import SafeCheckpointer, build_codec, build_mapper
from cdl_d2.d2.config_files import find_config, read_config
from cdl_d2.d2.data.store_mapper import list_variants
from cdl_d2.d2.modeling.teacher import build_teacher, find_weights
from cdl_d2.data import Plan
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store
from cdl_d2.errors import CdlError
from cdl_d2.nn.selection.statistics import save_statistics
from tests.d2.conftest import PIXEL, SMALL, small_cfg, small_model

PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedRCNN")
ENTRANCE = "backbone.bottom_up.pyramid.trunk.input"


@pytest.fixture
def cfg(coco_dataset, tmp_path):
    """One iteration on the small data set."""
    annotations, images = coco_dataset
    (tmp_path / "out").mkdir()  # as Detectron2's default_setup does
    register_coco_instances("client", {}, str(annotations), str(images))
    yield small_cfg(
        "latent",
        *PLAIN,
        *("DATASETS.TRAIN", ("client",), "OUTPUT_DIR", str(tmp_path / "out")),
        *("DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", ()),
        *("INPUT.MAX_SIZE_TRAIN", 110, "MODEL.DEVICE", "cpu"),
    )
    DatasetCatalog.remove("client")
    MetadataCatalog.remove("client")


@pytest.fixture
def stored(cfg, coco_dataset, tmp_path):
    """The same from a latent store."""
    codec, images, folder = build_codec(cfg), coco_dataset[1], tmp_path / "store"
    names = tuple(sorted(p.name for p in images.iterdir()))
    plan = Plan(codec.identity, "arrays", tuple(list_variants(cfg, True)), names, shard_size=4)
    plan.save(folder)
    list(encode_shards(codec, plan, images, folder, range(1), 0))
    close_store(folder, plan)
    cfg.INPUT.LATENT_SOURCE, cfg.INPUT.LATENT_STORE_TRAIN = "store", str(folder)
    return cfg


def trained_state(trainer):
    """The checkpoint of a trainer that has to be run yet."""
    trainer.resume_or_load(resume=False)
    trainer.train()
    path = f"{trainer.cfg.OUTPUT_DIR}/model_final.pth"
    return torch.load(path, weights_only=False)["model"]


def test_a_model_starts_from_init_and_statistics_whoever_trains_it(cfg, tmp_path):
    first = small_model(cfg)
    torch.save({"model": first.state_dict()}, tmp_path / "first.pth")
    codec = build_codec(cfg)
    mean = torch.linspace(-1, 1, codec.latent_channels)
    std = torch.full((codec.latent_channels,), 2.0)
    save_statistics(tmp_path / "statistics.safetensors", mean, std, codec.identity)
    cfg.MODEL.LATENT_RESNET.INIT = str(tmp_path / "first.pth")
    cfg.MODEL.LATENT_RESNET.STATISTICS = str(tmp_path / "statistics.safetensors")
    cfg.SOLVER.BASE_LR = 0.0
    state = trained_state(DefaultTrainer(cfg))
    assert torch.equal(torch.as_tensor(state[f"{ENTRANCE}.mean"]), mean)
    assert torch.equal(torch.as_tensor(state[f"{ENTRANCE}.std"]), std)
    trunk = {k: v for k, v in first.state_dict().items() if k.endswith("conv5.0.conv1.weight")}
    assert trunk and all(torch.equal(torch.as_tensor(state[k]), v) for k, v in trunk.items())


@pytest.mark.parametrize("source", ["store", "mapper"])
def test_a_source_that_the_mapper_does_not_give_is_refused(stored, source):
    stored.INPUT.LATENT_SOURCE = source
    trainer = DefaultTrainer(stored)
    with pytest.raises(CdlError, match=rf"LATENT_SOURCE is '{source}'.*build_mapper"):
        trainer.train()


class WithOurMapper(DefaultTrainer):
    """What the message above asks for; pictures stay in the event storage."""

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=build_mapper(cfg, True))

    def build_writers(self):
        return []


def test_training_from_a_store_shows_decoded_images(stored):
    stored.VIS_PERIOD = 1
    trainer = WithOurMapper(stored)
    trainer.train()
    pictures = {name: picture for name, picture, _ in trainer.storage._vis_data}
    (name,) = [name for name in pictures if name.startswith("Left: GT")]
    assert pictures[name].shape[0] == 3 and pictures[name].std() > 10


def run_folder(folder, seed):
    """What a training of the small teacher leaves: config.yaml and model_final.pth."""
    cfg = small_cfg("pixel", *PIXEL, "MODEL.WEIGHTS", "start.pth", "OUTPUT_DIR", str(folder))
    model = small_model(cfg)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.uniform_()
    SafeCheckpointer(model, str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return model.roi_heads.box_predictor.cls_score.bias.detach()


def test_a_teachers_weights_come_from_beside_its_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual, second = tmp_path / "output/pixel_mask_rcnn_small", tmp_path / "output/other"
    biases = {}
    for seed, folder in enumerate((usual, second)):
        folder.mkdir(parents=True)
        biases[folder] = run_folder(folder, seed)
    student = "detection/small/latent_mask_rcnn_small.yaml"

    def teachers_bias(*options):
        network = build_teacher(read_config(student, [*SMALL, *options]))
        return network.roi_heads.box_predictor.cls_score.bias

    config = "MODEL.TEACHER.CONFIG_FILE"
    for folder, bias in biases.items():
        assert torch.equal(teachers_bias(config, str(folder / "config.yaml")), bias)
    moved = tmp_path / "moved"
    shutil.copytree(second, moved)
    assert torch.equal(teachers_bias(config, str(moved / "config.yaml")), biases[second])
    weights = "MODEL.TEACHER.WEIGHTS", str(usual / "model_final.pth")
    named = teachers_bias(config, str(second / "config.yaml"), *weights)
    assert torch.equal(named, biases[usual])
    (moved / "model_final.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"moved.model_final\.pth"):
        teachers_bias(config, str(moved / "config.yaml"))


def test_the_teacher_of_a_packaged_config_is_what_its_training_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = tmp_path / "output/pixel_mask_rcnn_small"
    left.mkdir(parents=True)
    bias = run_folder(left, 0)
    shutil.copy(left / "config.yaml", tmp_path / "teacher.yaml")
    cfg = read_config(
        "detection/small/latent_mask_rcnn_small.yaml",
        [*SMALL, "MODEL.TEACHER.CONFIG_FILE", "teacher.yaml"],
    )
    assert torch.equal(build_teacher(cfg).roi_heads.box_predictor.cls_score.bias, bias)
    (left / "model_final.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"start\.pth"):
        build_teacher(cfg)


def test_a_teacher_of_detectron2s_zoo_has_the_weights_of_the_zoo():
    name = read_config("detection/latent_mask_rcnn_R50_FPN.yaml").MODEL.TEACHER.CONFIG_FILE
    weights = find_weights(find_config(name), "")
    assert weights.endswith("mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl")
    assert not find_weights(find_config("Base-RCNN-FPN.yaml"), "")
