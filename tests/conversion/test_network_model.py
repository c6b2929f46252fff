"""Models of networks by name: samples to results, files, cards and graphs."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.latent import coded_cells
from cdl_d2.conversion.backend import PyTorchBackend
from cdl_d2.conversion.named_networks import BACKGROUND, UNUSED
from cdl_d2.conversion.network_model import NetworkConfig, NetworkModel, load_model, save_model
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.export import export_model
from cdl_d2.prediction.loading import load_model as load_prediction_model
from cdl_d2.prediction.tasks import TASKS

CODEC = CodecChoice("tiny-bmshj2018-hyperprior", 2)
PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), short_edge=64, crop=64)
CONFIG = NetworkConfig(
    "torchvision/shufflenet_v2_x0_5", "classification", ("cat", "dog", "elk"), PREPROCESSING
)
DOMAINS = [("image", None), ("latent", CODEC), ("reconstruction", CODEC)]


@pytest.fixture(scope="module")
def model():
    """A classifier on latents."""
    torch.manual_seed(0)
    return NetworkModel.build(replace(CONFIG, domain="latent", codec=CODEC))


def draw_image(height=64, width=64, seed=0):
    """Draw an image of coarse random patches."""
    generator = torch.Generator().manual_seed(seed)
    shape = 3, -(-height // 16), -(-width // 16)
    patches = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return patches.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]


def predict(model, *samples):
    with torch.no_grad():
        return model(list(samples))


@pytest.mark.parametrize(("domain", "codec"), DOMAINS)
def test_a_file_has_all_of_a_model(domain, codec, tmp_path):
    model = NetworkModel.build(replace(CONFIG, domain=domain, codec=codec))
    save_model(tmp_path / "model_final.pth", model)
    loaded = load_prediction_model(tmp_path, "cpu")
    assert loaded.class_names == CONFIG.outputs and loaded.task is TASKS["classification"]
    assert loaded.config == model.config
    image = {"image": draw_image()}
    [output], [again] = predict(model, image), predict(loaded.network, image)
    assert torch.equal(output["scores"], again["scores"])
    assert torch.isclose(output["scores"].sum(), torch.ones(()))
    assert ("bits" in output) == (codec is not None)


def test_a_bitstream_gives_the_result_of_its_image(model, codec):
    image = draw_image()
    stream = codec.compress(image.float() / 255)
    [of_image] = predict(model, {"image": image})
    [of_stream] = predict(model, model.coded_input.read(stream))
    torch.testing.assert_close(of_image["scores"], of_stream["scores"], atol=1e-3, rtol=1e-2)


def test_a_batch_gives_the_results_of_its_samples(model):
    samples = [{"image": draw_image(seed=seed)} for seed in range(2)]
    batch = predict(model, *samples)
    for sample, output in zip(samples, batch, strict=True):
        torch.testing.assert_close(predict(model, sample)[0]["scores"], output["scores"])


def test_latents_with_a_margin_and_without_one_form_a_batch(model):
    samples = [model.coded_input.encode({"image": draw_image(80, 80, seed)}) for seed in range(2)]
    del samples[1]["image"], samples[1]["image_crc32"]
    samples[1]["latent"] = samples[1]["latent"][:, :5, :5]  # as in a store of arrays
    batch = predict(model, *samples)
    for sample, output in zip(samples, batch, strict=True):
        torch.testing.assert_close(predict(model, sample)[0]["scores"], output["scores"])


def test_another_codecs_latents_are_rejected(model, tmp_path):
    save_model(tmp_path / "a.pth", model)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    content["network_config"]["codec"]["quality"] = 1
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="reads"):
        load_model(tmp_path / "a.pth")


def test_label_maps_have_the_size_of_the_original_image():
    config = replace(
        CONFIG,
        network="torchvision/lraspp_mobilenet_v3_large",
        task="segmentation",
        preprocessing=replace(PREPROCESSING, crop=0),
        **{"domain": "latent", "codec": CODEC},
    )
    sample = {"image": draw_image(48, 64), "height": 90, "width": 120}
    [output] = predict(NetworkModel.build(config), sample)
    assert output["sem_seg"].shape == (3, 90, 120)


def test_boxes_and_masks_are_in_pixels_of_the_original_image():
    outputs = BACKGROUND, "cat", UNUSED, "dog"
    config = replace(CONFIG, task="detection", outputs=outputs)
    model = NetworkModel.build(config)
    masks = torch.zeros(3, 1, 10, 20)
    masks[:, :, :, 10:] = 1
    detections = {
        "boxes": torch.tensor([[2.0, 1.0, 20.0, 10.0]]).expand(3, 4),
        "labels": torch.tensor([3, 2, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "masks": masks,
        "keypoints": torch.tensor([[[2.0, 1.0, 1.0]]]).expand(3, 1, 3),
        "keypoints_scores": torch.full((3, 1), 0.5),
    }
    [result] = model._read([detections], [(10, 20)], [(20, 80)])
    assert config.classes == ("cat", "dog") and result["labels"].tolist() == [1, 0]
    assert result["boxes"].tolist() == [[8.0, 2.0, 80.0, 20.0]] * 2
    assert result["keypoints"].tolist() == [[[8.0, 2.0, 0.5]]] * 2
    assert result["masks"].shape == (2, 20, 80)
    assert result["masks"][0, 0].tolist() == [False] * 40 + [True] * 40


def test_a_card_has_all_of_a_config(model):
    backend, config = PyTorchBackend(), model.config
    values, overrides = backend.write_card_config(config, None, config.classes, "")
    assert backend.read_card_config(values, overrides, config.classes) == config


def test_a_bitstream_of_any_size_is_read_and_drawn(model, codec):
    image = draw_image(80, 112)
    sample = model.coded_input.read(codec.compress(image / 255))
    [of_stream], [of_image] = predict(model, sample), predict(model, {"image": image})
    torch.testing.assert_close(of_image["scores"], of_stream["scores"], atol=1e-3, rtol=1e-2)
    decoded = codec.decode(codec.encode(image / 255))
    difference = model.coded_input.picture(sample).float() - 255 * decoded
    assert difference.abs().max() <= 2


@pytest.mark.parametrize("side", [64, 80])  # nothing, and three positions, are coded around it
def test_a_graph_of_a_crop_gives_the_result_of_its_image(codec, side):
    config = replace(CONFIG, domain="latent", codec=CODEC)
    config = replace(config, preprocessing=replace(PREPROCESSING, short_edge=side, crop=side))
    model, image = NetworkModel.build(config).eval(), draw_image(side, side)
    features = []
    bridge = model.runner.bridge
    bridge.register_forward_hook(lambda module, inputs, output: features.append(output))
    [graph] = PyTorchBackend().export_graphs(model, config).graphs
    y_hat = codec.encode(image / 255).y_hat[None]
    rows, columns = graph.inputs["y_hat"][2:]
    assert rows == columns == side // 16 + model.coded_input.margin
    right, below = columns - y_hat.shape[3], rows - y_hat.shape[2]
    [logits] = graph.run([F.pad(y_hat, (0, right, 0, below))])
    [expected] = predict(model, {"image": image})
    torch.testing.assert_close(logits[0].softmax(0), expected["scores"])
    of_graph, of_image = (x[:, :, : side // 2, : side // 2] for x in (features[-2], features[-1]))
    torch.testing.assert_close(of_graph, of_image)


@pytest.mark.parametrize("crop", [0, 64])
def test_a_graph_is_written_for_any_number_of_images(crop, tmp_path):
    config = replace(CONFIG, domain="latent", codec=CODEC)
    config = replace(config, preprocessing=replace(PREPROCESSING, crop=crop))
    graphs = PyTorchBackend().export_graphs(NetworkModel.build(config), config)
    card = export_model(lambda size: graphs, "torch", tmp_path / "exported")
    assert card["graphs"]["backbone"]["inputs"][0]["shape"][0] == "n"


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_one_graph_maps_latents_to_logits(model, size):
    graphs = PyTorchBackend().export_graphs(model, model.config, size)
    [graph] = graphs.graphs
    [y_hat] = graph.draw()
    image_size = [16 * (side - model.coded_input.margin) for side in y_hat.shape[2:]]
    rows, columns = coded_cells(image_size)
    y_hat[:, :, rows:] = y_hat[:, :, :, columns:] = 0
    [logits] = graph.run([y_hat])
    with torch.no_grad():
        expected = model.runner(y_hat[:, :, :rows, :columns], [image_size] * len(y_hat))
    torch.testing.assert_close(logits, expected)
    assert list(graph.inputs) == ["y_hat"] and graphs.card["domain"] == "latent"


def test_the_config_of_a_patch_embedding_names_the_stride_of_its_bridge():
    pytest.importorskip("timm", reason="timm is not installed")
    crop = replace(PREPROCESSING, short_edge=160, crop=160)
    config = replace(CONFIG, network="timm/test_vit", preprocessing=crop, domain="latent")
    for stride in (8, 16):
        model = NetworkModel.build(replace(config, codec=CODEC, decoder_stride=stride))
        assert model.runner.bridge.decoder_stride == stride
