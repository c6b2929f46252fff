"""What commands do on the device is what they do on the CPU."""

import importlib.util
import json

import pytest
import torch

from cdl_d2.codec.io.image_files import read_image
from cdl_d2.device import usable_device
from cdl_d2.prediction import Predictor
from cdl_d2.seeds import seeded
from tests.commands import output_of
from tests.conftest import make_coco_dataset
from tests.prediction.conftest import save_tiny
from tests.second_device import NAME

if importlib.util.find_spec("detectron2"):
    from cdl_d2.bench.model import run_benchmark
    from cdl_d2.d2 import SafeCheckpointer
    from tests.d2.conftest import small_cfg, small_model

needs_detectron2 = pytest.mark.skipif(
    not importlib.util.find_spec("detectron2"), reason="Detectron2 is not installed"
)
CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", 2]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images."""
    folder = tmp_path_factory.mktemp("images")
    return make_coco_dataset(folder, sizes=[(64, 96), (96, 64), (64, 64)])[1]


def contents(folder):
    """Return the bytes of all files under a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def on_both(folder, *words):
    """Run a command on the CPU and on the device; return the folders that it wrote."""
    folders = [folder / device for device in ("cpu", NAME)]
    for target in folders:
        output_of(*words, "--output", target, "--device", target.name)
    return folders


def test_the_device_can_be_named_like_any_other():
    assert usable_device(NAME) == NAME and usable_device(f"{NAME}:0") == f"{NAME}:0"


def test_bitstreams_pictures_and_stores_are_those_of_the_cpu(images, tmp_path):
    coded = on_both(tmp_path / "coded", "codec", "compress", images, *CODEC)
    streams = sorted(coded[0].iterdir())
    pictures = on_both(tmp_path / "pictures", "codec", "decompress", *streams)
    encode = ["data", "encode", "--images", images, *CODEC, "--workers", 0]
    arrays = on_both(tmp_path / "arrays", *encode)
    bitstreams = on_both(tmp_path / "bitstreams", *encode, "--form", "bitstreams")
    for here, there in (coded, pictures, arrays, bitstreams):
        assert contents(here) and contents(here) == contents(there)
    rates = [
        output_of("codec", "evaluate", images, *CODEC, "--device", device, "--json")
        for device in ("cpu", NAME)
    ]
    assert json.loads(rates[0]) == json.loads(rates[1])


@pytest.mark.parametrize("domain", ["latent", "reconstruction", "image"])
def test_predictions_are_those_of_the_cpu_also_with_workers(images, codec, domain, tmp_path):
    folder = save_tiny(tmp_path / "model", domain)
    paths = sorted(images.iterdir())
    stream = codec.compress(read_image(paths[0]).float() / 255)
    here = [*Predictor.load(folder, "cpu").stream([*paths, stream])]
    for workers in (0, 1):
        found = Predictor.load(folder, NAME).stream([*paths, stream], 2, workers)
        for expected, prediction in zip(here, found, strict=True):
            for name in ("scores", "boxes", "masks"):
                values, others = getattr(expected, name), getattr(prediction, name)
                assert others.device.type == "cpu"
                assert torch.allclose(values.float(), others.float(), atol=1e-3)
            assert prediction.bits == expected.bits


def test_reading_and_network_are_timed_apart(images, codec, tmp_path):
    folder, path = save_tiny(tmp_path / "model", "latent"), tmp_path / "0.cdlz"
    stream = codec.compress(read_image(min(images.iterdir())).float() / 255)
    path.write_bytes(stream.to_bytes())
    timed = "bench", "predict", folder, path, "--device", NAME, "--precision", "bfloat16"
    [row] = json.loads(output_of(*timed, "--workers", 1, "--json"))
    assert row["workers"] >= 1 and row["images/s with 1"] > 0


def test_random_numbers_of_the_device_go_on_past_loading_and_seeded_places():
    from cdl_d2.codec import Codec

    def draw(between):
        torch.manual_seed(1)
        torch.rand(1, device=NAME)
        between()
        return torch.rand(1, device=NAME)

    def draw_elsewhere():
        with seeded(5):
            torch.rand(1)

    expected = draw(lambda: None)
    assert torch.equal(draw(draw_elsewhere), expected)
    load = Codec.load
    assert torch.equal(draw(lambda: load("bmshj2018-factorized", 1, weights="untrained")), expected)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a small RGB detector."""
    cfg, folder = small_cfg("pixel"), tmp_path_factory.mktemp("teacher")
    SafeCheckpointer(small_model(cfg), str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return folder


@needs_detectron2
def test_a_detector_is_converted_predicts_and_is_timed(teacher, images, tmp_path):
    target = tmp_path / "converted"
    convert = ["convert", teacher, images, *CODEC, "--output", target]
    output_of(*convert, "MODEL.DEVICE", NAME)
    predict = ["predict", target, images, "--output", tmp_path / "predictions", "--batch-size", 2]
    output_of(*predict, "--device", NAME, "--workers", 1, "--draw")
    there = json.loads((tmp_path / "predictions/predictions.json").read_text(encoding="utf-8"))
    assert isinstance(there, list)
    timed = ["bench", "files", target, images, "--count", 1, "--repeats", 1]
    [row] = json.loads(output_of(*timed, "--device", NAME, "--json"))
    assert row["decode + task (ms)"] > 0
    model = Predictor.load(target, NAME).model
    backbone, *_ = model.export_graphs((64, 96)).graphs
    assert all(feature.device.type == "cpu" for feature in backbone.run(backbone.draw()))
    assert model.device.type == NAME


@needs_detectron2
def test_a_detector_is_benchmarked(teacher):
    cfg = small_cfg("bridge", "MODEL.TEACHER.CONFIG_FILE", str(teacher / "config.yaml"))
    cfg.MODEL.DEVICE = NAME
    rows = run_benchmark(cfg, (256, 256), repeats=1)
    assert all(row["median ms"] > 0 for row in rows if row["ratio"] is None)
    assert all(row["peak MB"] is None for row in rows)  # nobody knows the device's memory
