"""cdl convert: a pixel detector becomes one that reads latents, without labels."""

import json
import shutil

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.codec import Bitstream
from cdl_d2.codec.image_files import read_image
from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.engine.bitstreams import read_stream
from cdl_d2.d2.engine.trained import load_trained
from tests.commands import output_of, refused
from tests.d2.conftest import small_cfg, small_model

CODEC = "--codec", "tiny-bmshj2018-hyperprior", "--quality", 2


@pytest.fixture
def teacher(tmp_path):
    """The output folder of a small pixel detector."""
    cfg = small_cfg("pixel", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,))
    folder = tmp_path / "teacher"
    folder.mkdir()
    SafeCheckpointer(small_model(cfg), str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def test_a_converted_detector_runs_without_its_teachers_files(
    teacher, coco_dataset, codec, tmp_path
):
    images, out = coco_dataset[1], tmp_path / "converted"
    arguments = "--images", images, *CODEC, "--output", out, "--threshold", 0.0
    output_of("convert", teacher, *arguments, "MODEL.TRANSFER.TASK_WEIGHT", 0.0)
    targets = json.loads((out / "targets.json").read_text())
    assert len(targets["images"]) == 4 and targets["annotations"]
    sizes = {(image["height"], image["width"]) for image in targets["images"]}
    assert sizes == {(96, 128), (128, 96), (80, 100), (96, 96)}  # of the files, not resized
    other = refused("convert", teacher, *arguments[:-1], 0.5)
    assert str(out / "targets.json") in other
    shutil.rmtree(teacher)
    model = load_trained(out)
    stream = codec.compress(read_image(images / "000.png").float() / 255)
    read = read_stream(model, Bitstream.from_bytes(stream.to_bytes()))
    assert model([read])[0]["instances"].image_size == (96, 128)


def test_what_cannot_be_converted_is_named(teacher, coco_dataset, tmp_path):
    arguments = "--images", coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    assert "threshold" in refused("convert", teacher, *arguments, "--threshold", 1.1)
    assert "nowhere" in refused("convert", tmp_path / "nowhere", *arguments)
    text = (teacher / "config.yaml").read_text()
    (teacher / "config.yaml").write_text(
        text.replace("build_resnet_fpn_backbone", "build_resnet_backbone")
    )
    assert "build_resnet_backbone" in refused("convert", teacher, *arguments)
