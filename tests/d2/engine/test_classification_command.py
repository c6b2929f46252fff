"""`cdl train` on folders of classes, as a user runs it."""

import json

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.data.datasets.synthetic import write_classification
from tests.commands import output_of, refused
from tests.d2.modeling.test_classifier import FOLDER, TINY

CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "2"]
SCHEDULE = [
    *("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "(1,)", "SOLVER.IMS_PER_BATCH", 4),
    *("MODEL.CLASSIFIER.NUM_CLASSES", 5, "INPUT.IMAGE_SIZE", 64),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    list(write_classification(folder, 10, (64, 64)))
    return folder


def words_for(name, folder, out, *options, arguments=()):
    data = ["--register-classes", "train", folder, "--register-classes", "val", folder]
    config = ["--config-file", FOLDER / f"{name}_small.yaml"]
    return [*config, *data, *arguments, *TINY, *SCHEDULE, "OUTPUT_DIR", out, *options]


def train(*words, arguments=()):
    return output_of("train", *words_for(*words, arguments=arguments))


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_a_teacher_a_student_and_a_joint_tuning(folder, tmp_path):
    train("pixel_resnet", folder, tmp_path / "teacher")
    teacher = [
        *("MODEL.TEACHER.WEIGHTS", tmp_path / "teacher" / "model_final.pth"),
        *("MODEL.TEACHER.CONFIG_FILE", tmp_path / "teacher" / "config.yaml"),
    ]
    train("latent_resnet", folder, tmp_path / "student", *teacher)
    assert {"top1", "top5", "top1-disc"} <= results(tmp_path / "student")["classification"].keys()
    assert results(tmp_path / "student")["rate"]["bpp"] > 0
    assert (tmp_path / "student" / "inference" / "confusion_matrix.png").exists()
    weights = tmp_path / "student" / "model_final.pth"
    image = next((folder / "disc").iterdir())
    output_of("visualize", tmp_path / "student", image, "--output", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    train("joint_classifier", folder, tmp_path / "joint", "MODEL.WEIGHTS", weights)
    assert results(tmp_path / "joint")["rate"]["psnr"] > 10
    codec = tmp_path / "joint" / "codec.safetensors"
    tuned = [*CODEC, "--codec-weights", codec]
    output_of("codec", "compress", image, *tuned, "--output", tmp_path / "files")
    assert len(list((tmp_path / "files").iterdir())) == 1


def test_latents_come_from_a_store(folder, tmp_path):
    words = ["data", "encode", "--images", folder, *CODEC, "--device", "cpu"]
    sizes = ["--short-edges", "64", "--flip", "--workers", "0"]
    for form in ("arrays", "bitstreams"):
        output_of(*words, *sizes, "--form", form, "--output", tmp_path / form)
    store = [
        *("INPUT.LATENT_SOURCE", "store", "INPUT.AUGMENTATION", "none"),
        *("INPUT.LATENT_STORE_TRAIN", tmp_path / "arrays"),
        *("INPUT.LATENT_STORE_TEST", tmp_path / "arrays"),
        *("MODEL.META_ARCHITECTURE", "CompressedClassifier"),
    ]
    train("latent_resnet", folder, tmp_path / "a", *store)
    direct = [*store[4:], "INPUT.LATENT_SOURCE", "model"]
    weights = ["MODEL.WEIGHTS", tmp_path / "a" / "model_final.pth"]
    only = {"arguments": ["--eval-only"]}
    train("latent_resnet", folder, tmp_path / "b", *direct, *weights, **only)
    encoded, stored = results(tmp_path / "a"), results(tmp_path / "b")
    assert encoded["classification"] == stored["classification"]
    assert abs(encoded["rate"]["bpp"] - stored["rate"]["bpp"]) < 1e-3
    last = refused("train", *words_for("cresnet39", folder, tmp_path / "c", *store[:-2]))
    assert "have no scales" in last
    streams = [str(word).replace("arrays", "bitstreams") for word in store[:-2]]
    train("cresnet39", folder, tmp_path / "c", *streams)
    quality = [*store, "MODEL.CODEC.QUALITY", 1]
    last = refused("train", *words_for("latent_resnet", folder, tmp_path / "d", *quality))
    assert "arrays" in last


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty class", "has no image"),
        ("too many classes", "the head has 4 outputs"),
        ("other classes", "have different classes (cross, ring)"),
        ("unknown source", "'nowhere' is not one of model, mapper, store"),
        ("no such folder", "no folder of classes"),
        ("unreadable", "cannot be read as an image"),
        ("coco data", "is no folder of classes"),
    ],
)
def test_what_is_wrong_is_one_line(folder, coco_dataset, tmp_path, case, message):
    data, options, arguments = tmp_path / "data", [], []
    list(write_classification(data, 5, (64, 64)))
    if case == "empty class":
        (data / "void").mkdir()
    elif case == "too many classes":
        options = ["MODEL.CLASSIFIER.NUM_CLASSES", 4]
    elif case == "other classes":
        other = tmp_path / "other"
        list(write_classification(other, 5, (64, 64)))
        (other / "cross").rename(other / "ring")
        arguments = ["--register-classes", "other", other]
        options = ["DATASETS.TEST", "('other',)"]
    elif case == "unknown source":
        options = ["INPUT.LATENT_SOURCE", "nowhere"]
    elif case == "no such folder":
        data = tmp_path / "nowhere"
    elif case == "unreadable":
        for path in data.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])
    else:
        arguments = ["--register", "coco", *coco_dataset]
        options = ["DATASETS.TRAIN", "('coco',)"]
    words = words_for("cresnet39", data, tmp_path / "out", *options, arguments=arguments)
    assert message in refused("train", *words)


def test_resuming_a_joint_tuning_goes_on(folder, tmp_path):
    train("joint_classifier", folder, tmp_path, "SOLVER.CHECKPOINT_PERIOD", 1)
    train("joint_classifier", folder, tmp_path, "SOLVER.MAX_ITER", 3, arguments=["--resume"])
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 2
