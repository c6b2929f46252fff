import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from dataclasses import replace

from detectron2.engine import DefaultPredictor
from detectron2.utils.analysis import FlopCountAnalysis, activation_count_operators

from cdl_d2.d2 import SafeCheckpointer, build_codec
from cdl_d2.d2.model_input import build_coded_input
from tests.d2.conftest import make_item, small_cfg, small_model

PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedRCNN")


@pytest.fixture(scope="module")
def detector():
    return small_model(small_cfg("latent", *PLAIN)).eval()


def assert_same_detections(first, second):
    first, second = first["instances"], second["instances"]
    assert len(first) == len(second) > 0
    assert torch.allclose(first.pred_boxes.tensor, second.pred_boxes.tensor, atol=1e-2)
    assert torch.allclose(first.scores, second.scores, atol=1e-4)


def test_a_stock_batch_trains_every_parameter(storage):
    model = small_model(small_cfg("latent", *PLAIN))
    losses = model([make_item(96, 128), make_item(80, 64, seed=1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("domain", ["latent", "reconstruction"])
def test_an_encoded_item_and_its_image_give_the_same_detections(domain):
    cfg = small_cfg(domain, *PLAIN)
    model, item = small_model(cfg).eval(), make_item(96, 128)
    encoded = build_coded_input(cfg).encode(item)
    del encoded["image"]
    assert_same_detections(model([item])[0], model([encoded])[0])


def test_batch_mates_do_not_change_detections(detector):
    small, large = make_item(70, 90), make_item(130, 200, seed=1)
    together = detector([small, large, small])
    assert_same_detections(detector([small])[0], together[0])
    assert_same_detections(detector([small])[0], together[2])
    assert_same_detections(detector([large])[0], together[1])


def test_the_codec_sees_rgb(detector):
    item, codec = make_item(64, 64), build_codec(small_cfg("latent"))
    encoded = detector.encode([item])[0]
    expected = codec.encode(item["image"].flip(0).float() / 255).cells
    assert torch.equal(encoded["latent"], expected)


def test_reconstruction_keeps_the_order_of_channels():
    cfg = small_cfg("reconstruction")
    item = {"image": torch.tensor([200.0, 120.0, 30.0]).view(3, 1, 1).expand(3, 64, 64)}
    decoded = build_coded_input(cfg).encode(item)["reconstruction"]
    assert (decoded.mean((1, 2)) - item["image"].mean((1, 2))).abs().max() < 25
    assert torch.equal(decoded, decoded.round())


def test_image_sizes_stay_in_pixels_and_latents_are_padded_to_whole_strides(detector):
    images = detector.preprocess_image(detector.encode([make_item(70, 90), make_item(96, 40)]))
    assert images.image_sizes == [(70, 90), (96, 40)]
    assert images.tensor.shape[2:] == (6, 6)


def test_outputs_carry_the_rate(detector):
    output = detector([make_item(70, 90)])[0]
    assert output["image_size"] == (70, 90) and output["bits"] > 0


def test_inference_on_original_images_needs_no_codec():
    model = small_model(small_cfg("reconstruction", *PLAIN, "INPUT.DOMAIN", "image")).eval()
    assert "bits" not in model([make_item(70, 90)])[0]


def test_neither_gradient_nor_state_reaches_the_codec(storage):
    model = small_model(small_cfg("latent", *PLAIN)).train()
    sum(model([make_item(64, 64)]).values()).backward()
    codec = model.coded_input.codec
    assert not codec.network.training
    assert all(p.grad is None and not p.requires_grad for p in codec.parameters())
    assert not any("g_a" in key for key in model.state_dict())


def test_detectron2s_predictor_works_unchanged(tmp_path):
    cfg = small_cfg("latent", *PLAIN)
    model = small_model(cfg)
    SafeCheckpointer(model, str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    picture = make_item(60, 80)["image"].permute(1, 2, 0).numpy()
    instances = DefaultPredictor(cfg)(picture)["instances"]
    assert instances.image_size == (60, 80)


def test_a_thin_image_is_no_error(detector):
    assert detector([make_item(10, 100, boxes=())])[0]["instances"].image_size == (10, 100)


def test_an_image_of_one_pixel_is_refused(detector):
    with pytest.raises(ValueError, match="1x1 pixels"):
        detector([make_item(1, 1, boxes=())])


def test_a_latent_of_320_channels_is_refused_by_a_192_channel_model(detector):
    item = {"latent": torch.zeros(320, 4, 4), "image_size": (64, 64)}
    with pytest.raises(ValueError, match="320 channels for a network of 192"):
        detector([item])


def test_a_latent_of_the_other_quantization_is_rejected(detector):
    identity = build_codec(small_cfg("latent")).identity
    item = {
        "latent": torch.zeros(192, 4, 4),
        "image_size": (64, 64),
        "codec_identity": replace(identity, quantization="rounded"),
    }
    with pytest.raises(ValueError, match=r"rounded.*dequantized"):
        detector([item])


@pytest.mark.parametrize("columns", [4, 8])
def test_a_latent_that_does_not_cover_its_image_is_refused(detector, columns):
    item = {"latent": torch.zeros(192, 4, columns), "image_size": (64, 100)}
    with pytest.raises(ValueError, match="does not cover an image"):
        detector([item])


@pytest.mark.parametrize("domain", ["latent", "reconstruction"])
def test_a_checkpoint_of_another_codec_is_refused(tmp_path, domain):
    SafeCheckpointer(small_model(small_cfg(domain, *PLAIN)), str(tmp_path)).save("model")
    loaded = small_model(small_cfg(domain, *PLAIN, "MODEL.CODEC.QUALITY", 1))
    with pytest.raises(ValueError, match=r"quality 2 .*quality 1 "):
        SafeCheckpointer(loaded).load(str(tmp_path / "model.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("INPUT.DOMAIN", "pixels"), "domain 'pixels' is not one of"),
        (("MODEL.CODEC.QUALITY", 9), "quality 9 is not one of"),
    ],
)
def test_a_wrong_config_value_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        small_model(small_cfg("latent", *PLAIN, *options))


@pytest.mark.parametrize("domain", ["latent", "reconstruction"])
def test_detectron2_counts_what_a_model_computes_of_an_image(domain):
    model, item = small_model(small_cfg(domain, *PLAIN)).eval(), make_item(96, 128)
    counted = FlopCountAnalysis(model, [item])
    alone = FlopCountAnalysis(model.backbone, model.preprocess_image(model.encode([item])).tensor)
    assert counted.by_module()["model.backbone"] == alone.total() > 0
    assert counted.total() > alone.total()
    assert activation_count_operators(model, [item])["conv"] > 0


def test_an_object_without_a_mask_trains_boxes_only(storage):
    """Its mask has no effect; if all objects have one, nothing changes."""
    model = small_model(small_cfg("latent", *PLAIN, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64))
    torch.nn.init.ones_(model.roi_heads.mask_head.predictor.bias)

    def losses(has_mask=None, mask=None):
        torch.manual_seed(1)
        items = [make_item(96, 128), make_item(80, 64, seed=1)]
        if has_mask is not None:
            items[0]["instances"].gt_has_mask = torch.tensor(has_mask)
        if mask is not None:
            items[0]["instances"].gt_masks.tensor[0] = mask
        return {name: float(value) for name, value in model(items).items()}

    plain, without = losses(), losses([False, True], mask=0)
    assert losses([True, True]) == pytest.approx(plain)
    assert losses([False, True], mask=1) == without
    assert losses(mask=0)["loss_mask"] != pytest.approx(plain["loss_mask"], rel=1e-4)
    assert without["loss_cls"] == pytest.approx(plain["loss_cls"])
    assert losses([False, False])["loss_mask"] > 0  # of the other image
