"""LazyConfigs are models: converted, loaded from what a training or a conversion left."""

import pytest
import torch
import yaml

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig, instantiate

from cdl_d2.codec import Bitstream, CodecChoice
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.d2.applications.lazy_conversion import LazyConversion
from cdl_d2.d2.config_files import find_config
from cdl_d2.d2.lazy_config import read_lazy_config
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import flatten
from cdl_d2.prediction.bitstreams import read_stream
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused
from tests.d2.lazy_files import DETECTORS, write_detector

CODEC = CodecChoice("tiny-bmshj2018-hyperprior", 2)
OPTIONS = "--codec", CODEC.name, "--quality", CODEC.quality


@pytest.fixture
def images(coco_dataset):
    return sorted(coco_dataset[1].glob("*.png"))


def convert(config, images, output, *overrides):
    many = images * (1 + 40 // len(images))
    return LazyConversion(config, many, CODEC, output, overrides=overrides).run()


def predict_bitstream(model, codec, image):
    stream = codec.compress(read_image(image).float() / 255)
    return model([read_stream(model, Bitstream.from_bytes(stream.to_bytes()))])[0]


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_is_converted_and_reads_bitstreams(kind, images, codec, tmp_path):
    config, output = write_detector(kind, tmp_path), tmp_path / "out"
    convert(config, images, output)
    before = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    after = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    network = load_model(output, "cpu").network
    found = predict_bitstream(network, codec, images[0])
    assert found["instances"].image_size == (96, 128) and found["bits"] > 0


def test_commands_take_a_lazy_config_and_what_its_conversion_wrote(images, tmp_path):
    more = "model.roi_heads.box_head.conv_norm = lambda channels: None"
    config, output = write_detector("regnet", tmp_path), tmp_path / "out"
    folder = images[0].parent
    output_of("predict", config, images[0], "--output", tmp_path / "pixels")
    words = folder, *OPTIONS, "--output", output, "MODEL.BRIDGE.STRIDE", 4
    output_of("convert", f"{config}:{tmp_path}/model_final.pth", *words)
    output_of("predict", output, images[0], "--output", tmp_path / "latents")
    assert str(output) in refused("convert", config, *words)  # nothing is written over
    assert "SOLVER.BASE_LR" in refused("convert", config, *words[:-2], "SOLVER.BASE_LR", 1)
    assert "reads latents" in refused("convert", output, folder, *OPTIONS, "--output", tmp_path)
    other = write_detector("regnet", tmp_path, more)
    assert "lambda" in refused("convert", other, *words[:-3], tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_converted_config_is_one_of_detectron2(images, tmp_path):
    convert(write_detector("regnet", tmp_path), images, tmp_path / "out")
    config = LazyConfig.load(str(tmp_path / "out" / "config.yaml"))
    network = instantiate(config.model)
    state = torch.load(config.train.init_checkpoint, weights_only=True)["model"]
    network.load_state_dict(state)
    assert config.train.output_dir == str(tmp_path / "out")


def test_class_names_and_sizes_are_those_of_the_data_sets(images, tmp_path):
    names = "dataloader.train.dataset.names = 'cityscapes_fine_instance_seg_train'"
    config = write_detector("regnet", tmp_path, f"heads.num_classes = 8\n{names}")
    convert(config, images, tmp_path / "out")
    for path in (config, tmp_path / "out"):
        model = load_model(path, "cpu")
        assert model.class_names[0] == "person" and len(model.class_names) == 8
        assert model.resize(torch.zeros(3, 200, 100, dtype=torch.uint8)).shape == (3, 128, 64)


def test_vitdet_is_padded_to_squares_as_in_pixels(images, tmp_path):
    config = write_detector("vitdet", tmp_path)
    convert(config, images, tmp_path / "out")
    pixels, latents = (load_model(path, "cpu").network for path in (config, tmp_path / "out"))
    for size in ((90, 70), (33, 128), (128, 128)):
        sample = {"image": torch.zeros(3, *size)}
        [encoded] = latents.encode([sample])
        rgb, latent = pixels.preprocess_image([sample]), latents.preprocess_image([encoded])
        assert rgb.image_sizes == latent.image_sizes
        assert rgb.tensor.shape[2:] == tuple(16 * side for side in latent.tensor.shape[2:])
        pyramids = (
            flatten(m.backbone(x.tensor), ["p2", "p6"])
            for m, x in ((pixels, rgb), (latents, latent))
        )
        assert all(a.shape == b.shape for a, b in zip(*pyramids, strict=True))
    graphs = load_model(tmp_path / "out", "cpu").export_graphs()
    assert graphs.fixed_size == (128, 128)


def test_the_folder_of_a_lazy_training_is_a_model(tmp_path):
    config = LazyConfig.load(str(find_config("lazy/latent_mask_rcnn_small.py")))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    state = read_lazy_config(tmp_path / "config.yaml").build().state_dict()
    torch.save({"model": state}, tmp_path / "model_final.pth")
    model = load_model(tmp_path, "cpu")
    assert model.task.name == "detection" and len(model.class_names) == 1
    assert model.network.training is False and model.coded_input.domain == "latent"


ATTACKS = {
    "a call": "!!python/object/apply:os.system ['touch {file}']",
    "an object": "!!python/object/new:os.system ['touch {file}']",
    "a name": "!!python/name:os.system ''",
    "a target": "{{_target_: os.system, command: 'touch {file}'}}",
    "a module's import": "{{_target_: detectron2.utils.env.os.system, command: 'touch {file}'}}",
    "a program": "{{_target_: detectron2.config.LazyConfig.load, filename: {file}}}",
    "a partial": "!!python/object/apply:functools.partial {{args: [!!python/name:os.system ''], "
    "state: [!!python/name:os.system '', [], {{command: 'touch {file}'}}, null]}}",
    "an interpolation": "{{_target_: '${{train.attack}}', command: 'touch {file}'}}",
    "a node elsewhere": "'${{train.node}}'",
    "a writer": "{{_target_: cdl_d2.files.write_text, path: {file}, text: x}}",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_saved_config_runs_no_code(attack, tmp_path):
    file, path = tmp_path / "file.py", tmp_path / "config.yaml"
    node = f"{{_target_: os.system, command: 'touch {file}'}}"
    path.write_text(
        "model:\n  _target_: detectron2.modeling.GeneralizedRCNN\n"
        f"  backbone: {attack.format(file=file)}\n"
        f"train: {{attack: os.system, node: {node}}}\n"
    )
    with pytest.raises(CdlError, match="LazyConfig"):
        read_lazy_config(path).build()
    assert not file.exists()


def test_objects_outside_of_the_model_are_not_made(tmp_path):
    config = LazyConfig.load(str(find_config("lazy/latent_mask_rcnn_small.py")))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    attack = f"!!python/object/apply:os.system ['touch {tmp_path}/file']"
    with open(tmp_path / "config.yaml", "a", encoding="utf-8") as file:
        file.write(f"more: {attack}\n")
    read_lazy_config(tmp_path / "config.yaml").build()
    assert not (tmp_path / "file").exists()


def test_a_project_that_the_user_names_may_be_built(tmp_path, monkeypatch):
    (tmp_path / "lazy_project.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.dump({"model": {"_target_": "lazy_project.Net"}}))
    with pytest.raises(CdlError, match="DETECTRON2_ENV_MODULE"):
        read_lazy_config(path)
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "lazy_project")
    assert type(read_lazy_config(path).build()).__name__ == "Net"
