"""`cdl train` on images with label maps, as a user runs it."""

import json
import shlex

import pytest
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.codec import Bitstream
from cdl_d2.d2.config_files import read_config
from cdl_d2.data.datasets.synthetic import write_segmentation
from tests.commands import output_of, refused
from tests.d2.modeling.test_segmentor import FOLDER, TINY

PLAIN = ["MODEL.META_ARCHITECTURE", "CompressedSegmentor"]
SCHEDULE = [
    *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_segmentation(folder, 4, (64, 96)))
    return folder


def words_for(name, folder, out, *options, arguments=()):
    config = ["--config-file", FOLDER / f"{name}_deeplab_small.yaml"]
    data = [
        word
        for part in ("train", "val")
        for word in ("--register-labels", part, folder / "images", folder / "labels")
    ]
    return [*config, *data, *arguments, *TINY, *SCHEDULE, "OUTPUT_DIR", out, *options]


def train(*arguments):
    return output_of("train", *words_for(*arguments))


def test_a_teacher_and_a_student(folder, tmp_path):
    train("pixel", folder, tmp_path / "teacher")
    teacher = [
        *("MODEL.TEACHER.CONFIG_FILE", tmp_path / "teacher" / "config.yaml"),
        *("MODEL.TEACHER.WEIGHTS", tmp_path / "teacher" / "model_final.pth"),
    ]
    train("latent", folder, tmp_path / "student", *teacher)
    image = next((folder / "images").iterdir())
    output_of("visualize", tmp_path / "student", image, "--output", tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    results = json.loads((tmp_path / "student" / "results.json").read_text())
    assert {"mIoU", "IoU-disc"} <= results["sem_seg"].keys()
    assert results["rate"]["bpp"] > 0


def test_a_gate_becomes_a_fixed_selection(folder, tmp_path):
    gate = [*PLAIN, "MODEL.SELECTION.KIND", "gate"]
    train("latent", folder, tmp_path / "gate", *gate)
    labels = ["--register-labels", "train", folder / "images", folder / "labels"]
    labels += ["--register-labels", "val", folder / "images", folder / "labels"]
    select = ["latents", "select", tmp_path / "gate"]
    weights = ["MODEL.WEIGHTS", tmp_path / "gate" / "model_final.pth"]
    for how in (["--by", "gate"], ["--by", "variance"]):
        printed = output_of(*select, "--count", 16, *labels, *how)
        _, _, _, channels = shlex.split(printed.splitlines()[-1])
        assert len(set(json.loads(channels))) == 16
    file = tmp_path / "selections" / "variance.json"
    output_of(*select, *labels, "--by", "variance", "--output", file)
    fixed = ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.FILE", file]
    train("latent", folder, tmp_path / "fixed", *PLAIN, *fixed, "MODEL.SELECTION.COUNT", 16)
    file.unlink()  # the training has kept the numbers
    kept = read_config(tmp_path / "fixed" / "config.yaml").MODEL.SELECTION
    assert (json.loads(channels), "", 0) == (kept.CHANNELS, kept.FILE, kept.COUNT)
    rates = [
        json.loads((tmp_path / name / "results.json").read_text())["rate"]["bpp"]
        for name in ("fixed", "gate")
    ]
    assert rates[0] < rates[1]
    last = refused(*select, *labels, "--count", 193)
    assert "--count 193: tiny-bmshj2018-hyperprior has 192 channels" in last
    alone = words_for("latent", folder, tmp_path / "e", *PLAIN, *weights, arguments=["--eval-only"])
    last = refused("train", *alone)
    assert "of a model that selects channels: set MODEL.SELECTION" in last

    table = output_of(
        *("bench", "files", tmp_path / "gate", folder / "images", "--count", 2, "--repeats", 1),
        *("--against", tmp_path / "fixed", "--record"),
    )
    rows = [[float(cell) for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    assert rows[1][0] == 16 < rows[0][0]  # channels
    assert rows[1][1] < rows[0][1] and rows[1][2] > rows[0][2]  # bits of both layers
    for name, row in zip(("gate", "fixed"), rows, strict=True):
        keys = ["--keys", "time/result_ms", "rate/bpp"]
        output = output_of("compare", tmp_path / name, *keys, "--json")
        (comparison,) = json.loads(output)
        assert (
            comparison["time/result_ms"] == pytest.approx(row[-1], abs=0.1)
            and comparison["rate/bpp"] > 0
        )

    coded, large = tmp_path / "coded", tmp_path / "large"
    large.mkdir()
    for path in (folder / "images").iterdir():
        Image.open(path).resize((192, 128)).save(large / path.name)
    words = ["codec", "compress", large, "--for", tmp_path / "fixed"]
    output_of(*words, "--output", coded)
    assert len(list(coded.glob("*.enhancement.cdlz"))) == 4 and len(list(coded.iterdir())) == 8
    for stream in map(Bitstream.load, coded.iterdir()):
        assert (stream.image_size, stream.original_size) == ((64, 96), (128, 192))
    output_of("codec", "decompress", *coded.iterdir(), "--output", tmp_path / "png")
    assert len(list((tmp_path / "png").iterdir())) == 4
    assert "--force" in refused(*words, "--output", coded)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("classes", "has 6 classes: set MODEL.SEM_SEG_HEAD.NUM_CLASSES 6"),
        ("labels", "has no label map"),
        ("folder", "there is no folder"),
        ("palette", "has mode P"),
        ("ignored", "set MODEL.SEM_SEG_HEAD.IGNORE_VALUE 255"),
        ("store", "set INPUT.LATENT_STORE_TEST to its folder"),
        ("val", "label 200 of"),
        ("coco", "has no label maps"),
    ],
)
def test_what_is_wrong_is_one_line(folder, coco_dataset, tmp_path, case, message):
    options, arguments, data = list(PLAIN), [], folder
    if case == "classes":
        options += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3]
    elif case == "labels":
        data = tmp_path / "data"
        list(write_segmentation(data, 1, (64, 96)))
        next((data / "labels").iterdir()).unlink()
    elif case == "palette":
        data = tmp_path / "data"
        list(write_segmentation(data, 1, (64, 96)))
        path = next((data / "labels").iterdir())
        Image.open(path).convert("P").save(path)
    elif case == "val":
        data = tmp_path / "data"
        list(write_segmentation(data, 1, (64, 96)))
        path = next((data / "labels").iterdir())
        Image.new("L", (96, 64), 200).save(path)
        options += ["DATASETS.TRAIN", "('other',)"]
        arguments = ["--register-labels", "other", folder / "images", folder / "labels"]
    elif case == "ignored":
        options += ["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 0]
    elif case == "store":
        options += ["INPUT.LATENT_SOURCE", "store"]
    elif case == "folder":
        data = tmp_path / "nowhere"
    else:
        arguments = ["--register", "coco", *coco_dataset]
        options += ["DATASETS.TRAIN", "('coco',)"]
    words = words_for("latent", data, tmp_path / "out", *options, arguments=arguments)
    assert message in refused("train", *words)
