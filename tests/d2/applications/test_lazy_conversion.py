"""LazyConfigs are models: converted, loaded from what a training or a conversion left."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig, instantiate

from cdl_d2.bench.counts import count_lazy_model
from cdl_d2.codec import Bitstream, CodecChoice
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.d2.applications.lazy_conversion import LazyConversion
from cdl_d2.d2.config_files import find_config
from cdl_d2.d2.lazy_config import read_lazy_config
from cdl_d2.export.graphs import flatten
from cdl_d2.prediction.bitstreams import read_stream
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused
from tests.d2.conftest import make_item
from tests.d2.lazy_files import DETECTORS, write_detector

CODEC = CodecChoice("tiny-bmshj2018-hyperprior", 2)
VIT_IMAGES = 22  # each is 48 patches, and the map has 900 inputs
OPTIONS = "--codec", CODEC.name, "--quality", CODEC.quality


@pytest.fixture
def images(coco_dataset):
    return sorted(coco_dataset[1].glob("*.png"))


def convert(config, images, output, fit_images=8):
    count = fit_images + 4  # of which 4 are kept aside if they are 16 or more
    many, overrides = images * fit_images, ("MODEL.BRIDGE.FIT_IMAGES", str(fit_images))
    return LazyConversion(config, many[:count], CODEC, output, overrides=overrides).run()


def predict_bitstream(model, codec, image):
    stream = codec.compress(read_image(image).float() / 255)
    return model([read_stream(model, Bitstream.from_bytes(stream.to_bytes()))])[0]


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_is_converted_and_reads_bitstreams(kind, images, codec, tmp_path):
    config, output = write_detector(kind, tmp_path), tmp_path / "out"
    outcome = convert(config, images, output, VIT_IMAGES if kind == "vitdet" else 8)
    assert (outcome.report is not None) == (output / "report.json").exists() == (kind == "vitdet")
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
    assert "RGB model" in refused("convert", output, folder, *OPTIONS, "--output", tmp_path)
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
    convert(config, images, tmp_path / "out", VIT_IMAGES)
    pixels, latents = (load_model(path, "cpu").network for path in (config, tmp_path / "out"))
    for size in ((90, 70), (33, 128), (128, 128)):
        sample = {"image": torch.zeros(3, *size)}
        [encoded] = latents.encode([sample])
        rgb, latent = pixels.preprocess_image([sample]), latents.preprocess_image([encoded])
        assert rgb.image_sizes == latent.image_sizes
        assert rgb.tensor.shape[2:] == latents.coded_input.padded_size(latent.tensor)
        pyramids = (
            flatten(m.backbone(x.tensor), ["p2", "p6"])
            for m, x in ((pixels, rgb), (latents, latent))
        )
        assert all(a.shape == b.shape for a, b in zip(*pyramids, strict=True))
    graphs = load_model(tmp_path / "out", "cpu").export_graphs()
    assert graphs.fixed_size == (128, 128)
    image = make_item(70, 90)["image"]  # coded as 128 x 128
    [sample] = latents.encode([{"image": image}])
    [found] = latents([sample])
    with torch.no_grad():
        boxes = graphs.whole[0].module(sample["latent"][None], torch.tensor([70, 90]))[0]
    torch.testing.assert_close(boxes, found["instances"].pred_boxes.tensor)


def test_the_folder_of_a_lazy_training_is_a_model(tmp_path):
    config = LazyConfig.load(str(find_config("lazy/latent_mask_rcnn_small.py")))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    state = read_lazy_config(tmp_path / "config.yaml").build().state_dict()
    torch.save({"model": state}, tmp_path / "model_final.pth")
    model = load_model(tmp_path, "cpu")
    assert model.task.name == "detection" and len(model.class_names) == 1
    assert model.network.training is False and model.coded_input.domain == "latent"


def test_the_packaged_vitdet_trains_and_is_counted(storage, tmp_path):
    lazy = read_lazy_config(write_detector("latent_vitdet", tmp_path))
    model = lazy.build().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    samples = [make_item(128, 128, seed=seed) for seed in range(28)]
    before = [parameter.clone() for parameter in model.backbone.parameters()]
    for batch in (samples, samples[:2]):  # the bridge is fitted to the first one
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    bridge = model.backbone.net.patch_embed.proj
    assert bridge.is_fitted and not any(p.requires_grad for p in bridge.parameters())
    after = model.backbone.parameters()
    changed = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(changed) > len(changed) / 2
    counts = count_lazy_model(lazy, (128, 128))
    rgb, latent = counts["teacher_backbone"], counts["student_backbone"]
    patches = 8 * 8 * 3 * 16**2 * 32  # the patch embedding of 64 positions, 32 channels
    assert rgb - patches == latent - counts["bridge"] > 0
    assert counts["codec_decoder"] > counts["bridge"]
