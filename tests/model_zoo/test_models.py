"""Models of a training's folder are added to the zoo and loaded by name."""

import importlib.util
import json
from operator import attrgetter

import pytest
import torch

from cdl_d2 import model_zoo
from cdl_d2.bench.results import read_value
from cdl_d2.codec.io.weights_file import read_weights
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.metrics import read_metrics
from cdl_d2.tv import load_detector, save_detector
from tests.commands import output_of, refused
from tests.model_zoo.conftest import make_card, put
from tests.tv.conftest import CLASSES, make_item, tiny_config, tiny_detector

if importlib.util.find_spec("detectron2"):
    from cdl_d2.d2 import SafeCheckpointer
    from cdl_d2.d2.applications.zoo_models import TRAINING_ONLY_KEYS, overrides_between
    from cdl_d2.d2.config_files import read_config
    from tests.d2.conftest import small_cfg, small_model

NEEDS = pytest.mark.skipif(
    not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed"
)
LATENT = "detection/small/latent_mask_rcnn_small.yaml"
BRIDGE = "detection/small/bridge_mask_rcnn_small.yaml"
RESULTS = {
    "bbox": {"AP": 12.345, "AP50": 20.0},
    "segm": {"AP": None},
    "rate": {"bpp": 0.25149, "kB": 1.0},
}
DATA = "--data-name", "shapes"


@pytest.fixture
def tv_run(tmp_path):
    folder = tmp_path / "tv"
    folder.mkdir()
    state = tiny_detector("latent").state_dict()
    save_detector(folder / "model_final.pth", tiny_config("latent"), state)
    (folder / "results.json").write_text(json.dumps(RESULTS))
    return folder


def d2_run(folder, kind, *options):
    cfg = small_cfg(kind, "SEED", 7, *options)
    model = small_model(cfg)
    folder.mkdir()
    SafeCheckpointer(model, str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "results.json").write_text(json.dumps(RESULTS))
    return folder, model.eval()


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_torchvision_checkpoint_comes_back_by_name(tv_run, home, precision):
    words, file = ("--precision", precision, "--seed", 3), tv_run / "model_final.pth"
    output_of("zoo", "add", tv_run, "--name", "mine", *DATA, *words)
    card = model_zoo.card("mine")
    assert (card.task, card.backend, card.classes, card.seed) == (
        *("detection", "torchvision", CLASSES, 3),
    )
    assert card.metrics == {"box AP": 12.3, "bits per pixel": 0.251}
    assert model_zoo.get_config("mine") == tiny_config("latent")
    model, original = model_zoo.get("mine", device="cpu"), load_detector(file)[0]
    assert not model.training
    assert card.codec.weights == model.coded_input.codec.identity.weights
    closest = 0 if precision == "float32" else 1e-2
    for name, value in original.state_dict().items():
        assert torch.allclose(value.float(), model.state_dict()[name].float(), atol=closest)
    assert model([{"image": make_item(64, 96)["image"]}])[0]["scores"] is not None
    assert model_zoo.get("mine", trained=False, device="cpu").training


def test_a_single_checkpoint_can_be_added_and_a_name_is_given_once(tv_run, home):
    file = tv_run / "model_final.pth"
    output_of("zoo", "add", file, "--name", "mine", *DATA)
    assert "there is a model mine already" in refused("zoo", "add", file, "--name", "mine", *DATA)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "../x"], "name is '../x'"),
        (["--name", "x", "--url", "http://example.org/x"], "weights.url is"),
        (["--name", "x", "--url", "package:../x.safetensors"], "weights.url is"),
        (["--name", "x", "--images", "0"], "data.images is 0"),
        (["--name", "x", "--results", "nowhere.json"], "nowhere.json"),
        (["--name", "x", "--config-file", LATENT], "no --config-file"),
        (["--name", "x", "--classes", "a"], "has 2 classes"),
    ],
)
def test_what_cannot_be_added_leaves_nothing(tv_run, home, words, message):
    assert message in refused("zoo", "add", tv_run, *DATA, *words)
    assert not home.exists()


def test_weights_for_the_package_have_the_name_of_their_address(tv_run, home, tmp_path):
    place = tmp_path / "package"
    words = "--url", "package:mine.safetensors", "--output", place
    output_of("zoo", "add", tv_run, "--name", "mine", *DATA, *words)
    assert model_zoo.weights_file("mine") == place / "weights" / "mine.safetensors"
    assert "another model's" in refused(
        *("zoo", "add", tv_run, "--name", "other", *DATA, *words, "--precision", "float32")
    )


def test_a_home_that_cannot_be_written_is_one_line(tv_run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CDL_HOME", str(tmp_path / "file" / "home"))
    assert "(Not a directory): give another --output, or CDL_HOME" in refused(
        "zoo", "add", tv_run, "--name", "mine", *DATA
    )


def test_a_model_that_reads_another_codec_than_its_card_says_is_refused(tv_run, home):
    output_of("zoo", "add", tv_run, "--name", "mine", *DATA)
    path = model_zoo.card("mine").path
    path.write_text(path.read_text().replace(model_zoo.card("mine").codec.weights, "f" * 16))
    with pytest.raises(CdlError, match=f"codec's weights are {'f' * 16}, but the model reads"):
        model_zoo.get("mine", device="cpu")


@NEEDS
def test_a_training_of_detectron2_comes_back_by_name(home, tmp_path):
    run, original = d2_run(tmp_path / "run", "latent")
    words = "--name", "mine", *DATA, "--config-file", LATENT, "--classes", "a", "b"
    output_of("zoo", "add", run, *words, "--command", "cdl train\ncdl train again")
    card = model_zoo.card("mine")
    assert (card.task, card.backend, card.config, card.seed) == (
        "detection",
        "detectron2",
        LATENT,
        7,
    )
    assert card.metrics == {"box AP": 12.3, "bits per pixel": 0.251}
    assert card.command == "cdl train\ncdl train again"
    keys = card.overrides[::2]
    assert {"MODEL.LATENT_RESNET.WIDTH", "INPUT.MIN_SIZE_TEST"} <= set(keys)
    assert not [key for key in keys if key.startswith(("SOLVER", "DATASETS", "MODEL.TRANSFER"))]
    weights = model_zoo.get_config("mine", trained=True).MODEL.WEIGHTS
    assert weights == str(model_zoo.weights_file("mine"))
    model = model_zoo.get("mine", device="cpu")
    assert not model.training
    item = {"image": make_item(64, 96)["image"], "height": 64, "width": 96}
    with torch.no_grad():
        here, there = (m.backbone(torch.rand(1, 192, 4, 8) * 0 + 1) for m in (model, original))
    assert all(torch.allclose(here[k], there[k], atol=0.1 * there[k].abs().max()) for k in here)
    assert "instances" in model([item])[0]


@NEEDS
def test_a_trained_bridge_keeps_all_its_digits(home, tmp_path):
    run, original = d2_run(tmp_path / "run", "bridge", "MODEL.BRIDGE.ENTRY", "stem")
    words = "--name", "mine", *DATA, "--config-file", BRIDGE, "--classes", "a", "b"
    output_of("zoo", "add", run, *words)
    state, ours = read_weights(model_zoo.weights_file("mine")), original.state_dict()
    kept = [name for name in ours if ".bridge." in name]
    assert kept and all(torch.equal(state[name], ours[name]) for name in kept)
    large = [name for name in ours if "fpn_output" in name and name.endswith(".weight")]
    assert any(not torch.equal(state[name], ours[name]) for name in large)


@NEEDS
def test_what_is_missing_of_a_training_is_said(home, tmp_path):
    run, _ = d2_run(tmp_path / "run", "latent")
    start = "zoo", "add", run, "--name", "mine", *DATA
    assert "--config-file" in refused(*start, "--classes", "a", "b")
    assert "has 2 classes" in refused(*start, "--config-file", LATENT, "--classes", "a")
    (run / "model_final.pth").unlink()
    words = "--config-file", LATENT, "--classes", "a", "b"
    assert "model_final.pth do not exist" in refused(*start, *words)
    assert not home.exists()


@NEEDS
def test_a_packed_file_is_what_a_config_may_start_from(home, tmp_path):
    run, original = d2_run(tmp_path / "run", "latent")
    words = "--name", "mine", *DATA, "--config-file", LATENT, "--classes", "a", "b"
    output_of("zoo", "add", run, *words)
    model = small_model(small_cfg("latent"))
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(model_zoo.weights_file("mine")))
    assert checkpointer.loaded >= {k for k in original.state_dict() if k.endswith(".weight")}


@NEEDS
def test_a_card_names_as_many_classes_as_its_network_has(home):
    put(home, make_card(overrides=("MODEL.ROI_HEADS.NUM_CLASSES", 2)))
    with pytest.raises(CdlError, match=r"nuclei-bridge\.yaml: classes are 1 names; expected 2"):
        model_zoo.get_config("nuclei-bridge")


@NEEDS
def test_what_decides_the_evaluation_goes_into_a_card():
    base = read_config("classification/latent_resnet50.yaml")
    for key in TRAINING_ONLY_KEYS:
        attrgetter(key)(base)  # there is such a key
    training = "SOLVER.MAX_ITER", 7, "INPUT.RANDOM_FLIP", "none", "DATASETS.TRAIN", ("x",)
    evaluation = [
        *("INPUT.AUGMENTATION", "latent", "INPUT.LATENT_RESIZE", 30, "INPUT.LATENT_CROP", 24),
        *("INPUT.CROP.SIZE", [64, 64], "INPUT.FORMAT", "RGB", "TEST.AUG.ENABLED", True),
        *("MODEL.CODEC.QUALITY", 2, "MODEL.CLASSIFIER.NUM_CLASSES", 3),
    ]
    trained = base.clone()
    trained.merge_from_list([*training, *evaluation])
    ours, theirs = (
        dict(zip(pairs[::2], pairs[1::2], strict=True))
        for pairs in (overrides_between(base, trained), evaluation)
    )
    assert ours == theirs


def test_a_card_has_the_metrics_of_every_task_and_data_set(tmp_path):
    path = tmp_path / "results.json"
    tables = {
        "bbox": {"AP": 12.345, "AP50": 20.0},
        "segm": {"AP": None},
        "sem_seg": {"IoU": 70.04},
        "attributes": {"accuracy": 90.0, "balanced_accuracy": 80.0, "left_out": 0},
        "rate": {"bpp": 0.25149},
    }
    metrics = {
        "box AP": 12.3,
        "mIoU": 70.0,
        "attribute accuracy": 90.0,
        "balanced attribute accuracy": 80.0,
        "bits per pixel": 0.251,
    }
    path.write_text(json.dumps(tables))
    assert read_metrics(path, needed=True) == metrics
    path.write_text(json.dumps({"val": tables, "test": tables, "model": {"parameters": 7}}))
    assert read_metrics(path, needed=True) == {
        f"{name} ({dataset})": value
        for name, value in metrics.items()
        for dataset in ("val", "test")
    }
    assert read_value(tmp_path, "test/rate/bpp") == 0.25149
    with pytest.raises(CdlError, match="val/bbox/AP"):
        read_value(tmp_path, "bbox/AP")


def test_a_cards_classes_are_those_of_its_config(tv_run, home):
    output_of("zoo", "add", tv_run, "--name", "mine", *DATA)
    card = model_zoo.card("mine")
    put(home, type(card)(**vars(card) | {"classes": ("disc",)}))
    with pytest.raises(CdlError, match=r"classes and config\.classes differ"):
        model_zoo.get_config("mine")
