"""Channel selection in all kinds of models."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils.events import EventStorage

from cdl_d2.codec.bitstream.layers import compress_layers
from cdl_d2.d2 import Trainer
from cdl_d2.errors import CdlError
from cdl_d2.nn.selection.channel_ranking import ChannelRanking
from cdl_d2.prediction.bitstreams import compress_for, get_codec, read_stream
from tests.d2 import conftest
from tests.d2.modeling import test_classifier, test_segmentor

GATE = ["MODEL.SELECTION.KIND", "gate", "MODEL.SELECTION.RATE_WEIGHT", 2.0]
KEPT = [0, 17, 33, 150]
FIXED = ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.CHANNELS", KEPT]
KINDS = ["detector", "classifier", "scales", "segmentor"]


def make_model(kind, *options):
    torch.manual_seed(0)
    if kind == "detector":
        plain = ["MODEL.META_ARCHITECTURE", "CompressedRCNN"]
        return conftest.small_model(conftest.small_cfg("latent", *plain, *options))
    if kind in ("classifier", "scales"):
        name = "latent_resnet" if kind == "classifier" else "cresnet39"
        plain = ["MODEL.META_ARCHITECTURE", "CompressedClassifier"]
        return test_classifier.tiny_model(test_classifier.tiny_cfg(name, *plain, *options))
    return test_segmentor.tiny_model(
        test_segmentor.tiny_cfg("latent", *test_segmentor.PLAIN, *options)
    )


def make_item(kind, size=(96, 64), seed=0):
    if kind == "detector":
        return conftest.make_item(*size, seed=seed)
    if kind == "segmentor":
        return test_segmentor.make_item(*size, seed=seed)
    return test_classifier.make_items(seed + 1)[seed]


def answer(output):
    """The part of an output that can be compared."""
    if "instances" in output:
        return output["instances"].scores
    return output["scores" if "scores" in output else "sem_seg"]


def image_of(item, model):
    return model.coded_input.swap(item["image"].float() / 255)


def without_most(model):
    """Let a gate drop about half of the channels, differently for every image."""
    with torch.no_grad():
        model.selection.chooser.score[2].bias.zero_()
        model.selection.chooser.score[2].weight.mul_(20)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_has_a_rate_in_the_loss_and_learns_from_the_task(kind):
    model = make_model(kind, *GATE).train()
    with EventStorage():
        losses = model([make_item(kind), make_item(kind, seed=1)])
    assert "loss_rate" in losses
    bias = model.selection.chooser.score[2].bias
    rate = torch.autograd.grad(losses.pop("loss_rate"), bias, retain_graph=True)[0]
    assert rate[192:].sum() > 0  # fewer channels, fewer bits
    assert torch.autograd.grad(sum(losses.values()), bias)[0].abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_choice_is_made_for_each_image_whatever_is_beside_it(kind):
    model = without_most(make_model(kind, *GATE))
    items = model.encode([make_item(kind), make_item(kind, seed=1)])
    first, second = model.select_channels(items)
    assert not torch.equal(first["choice"], second["choice"])
    assert 0 < first["channels"] < 192
    assert torch.equal(model.select_channels(items[:1])[0]["choice"], first["choice"])
    assert torch.equal(first["latent"], items[0]["latent"] * first["choice"][:, None, None])
    expected = float(items[0]["channel_bits"] @ first["choice"]) + items[0]["side_bits"]
    assert first["bits"] == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("selection", [GATE, FIXED], ids=["gate", "fixed"])
def test_the_first_layer_alone_gives_what_the_image_gives(kind, selection):
    model = make_model(kind, *selection).eval()
    if selection is GATE:
        without_most(model)
    item = make_item(kind)
    layers = compress_for(model, item["image"])
    received = read_stream(model, layers.base)
    size = {key: item[key] for key in ("height", "width") if key in item}
    with torch.no_grad():
        output, expected = model([received | size])[0], model([item])[0]
    assert torch.equal(answer(output), answer(expected))
    assert output["channels"] == expected["channels"]
    assert 0 < output["channels"] < 192
    assert output["bits"] == 8 * len(layers.base.to_bytes()) > 0.98 * expected["bits"]


def test_a_first_layer_with_more_channels_than_needed_will_do():
    model = make_model("segmentor", *FIXED).eval()
    item, codec = make_item("segmentor"), model.coded_input.codec
    layers = compress_layers(codec, image_of(item, model), [*KEPT, 40, 41])
    received = model.select_channels([read_stream(model, layers.base)])[0]
    expected = model.select_channels(model.encode([item]))[0]
    assert torch.equal(received["latent"], expected["latent"])
    assert received["bits"] == 8 * len(layers.base.to_bytes()) > expected["bits"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_bitstream_gives_what_the_image_gives(kind):
    model, item = make_model(kind).eval(), make_item(kind)
    stream = compress_for(model, item["image"]).base
    size = {key: item[key] for key in ("height", "width") if key in item}
    with torch.no_grad():
        output, expected = model([read_stream(model, stream) | size])[0], model([item])[0]
    assert torch.equal(answer(output), answer(expected))
    assert output["bits"] == 8 * len(stream.to_bytes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.CODEC.NAME", "mbt2018", "MODEL.CODEC.WEIGHTS", "untrained"], "coded in layers"),
        (
            ["MODEL.CODEC.QUANTIZATION", "rounded"],
            "quantization 'dequantized'",
        ),
        (["INPUT.LATENT_SOURCE", "store"], "which stored latents do not have"),
        (
            [
                *("INPUT.DOMAIN", "reconstruction"),
                *("MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone"),
                *("MODEL.META_ARCHITECTURE", "CompressedSegmentor"),
            ],
            "not 'reconstruction'",
        ),
    ],
)
def test_a_gate_that_could_save_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_model("segmentor", *GATE, *options)


def test_the_distortion_of_other_channels_is_not_reported():
    with pytest.raises(ValueError, match=r"TEST\.DISTORTION"):
        make_model("classifier", *FIXED, "TEST.DISTORTION", True)


def test_channels_that_are_not_there_are_named():
    item = make_item("segmentor")
    model, whole = make_model("segmentor", *FIXED).eval(), make_model("segmentor").eval()
    codec = model.coded_input.codec
    stream = compress_layers(codec, image_of(item, model), KEPT[1:]).base
    received = read_stream(model, stream)
    with pytest.raises(ValueError, match=r"lacks the channels \[0\]"):
        model([received])
    with pytest.raises(ValueError, match="has 3 of 192 channels"):
        whole([received])


def test_models_on_original_images_read_no_bitstreams():
    segmentor = test_segmentor.tiny_model(test_segmentor.tiny_cfg("pixel"))
    for model in (segmentor, conftest.small_model(conftest.small_cfg("pixel"))):
        with pytest.raises(CdlError, match="original images"):
            get_codec(model)


def test_a_gate_has_a_learning_rate_of_its_own():
    options = [*test_segmentor.PLAIN, *GATE, "MODEL.SELECTION.LR_FACTOR", 7.0]
    cfg = test_segmentor.tiny_cfg("latent", *options)
    model = test_segmentor.tiny_model(cfg)
    groups = Trainer.build_optimizer(cfg, model).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    gate = {id(p) for p in model.selection.parameters()}
    assert {rates[key] for key in gate} == {7 * cfg.SOLVER.BASE_LR}
    assert {rate for key, rate in rates.items() if key not in gate} == {cfg.SOLVER.BASE_LR}
    assert rates.keys() == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_selections_file_gives_the_most_wanted_channels(tmp_path):
    codec = make_model("segmentor").coded_input.codec
    path = tmp_path / "selection.json"
    ChannelRanking.from_scores(torch.arange(192.0), "gate", codec.identity).save(path)
    named = ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.FILE", str(path)]
    model = make_model("segmentor", *named, "MODEL.SELECTION.COUNT", 3)
    assert model.selection.chooser.mask.nonzero()[:, 0].tolist() == [189, 190, 191]
    for options, message in (
        (["MODEL.SELECTION.COUNT", 0], "0 channels cannot be kept"),
        (["MODEL.SELECTION.CHANNELS", [3]], "needs one of them"),
        (["MODEL.CODEC.QUALITY", 1, "MODEL.SELECTION.COUNT", 3], "this model reads"),
    ):
        with pytest.raises(ValueError, match=message):
            make_model("segmentor", *named, *options)
