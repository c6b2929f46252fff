import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
pytest.importorskip("timm", reason="timm is not installed")

from detectron2.utils.events import EventStorage

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.nn import stage_ends
from cdl_d2.nn.bridge.linear_bridge import LinearBridge
from tests.d2.modeling.test_classifier import make_items, tiny_cfg, tiny_model

NETWORKS = ("timm/test_resnet", "timm/test_convnext", "timm/test_efficientnet", "timm/test_vit")


@pytest.fixture(params=NETWORKS)
def pixel_run(request, tmp_path):
    """Config and weights of a small pixel network."""
    options = "MODEL.CLASSIFIER.NETWORK", request.param, "MODEL.CLASSIFIER.WIDTH", 1.0
    cfg = tiny_cfg("pixel_resnet", *options, "INPUT.IMAGE_SIZE", 160)
    SafeCheckpointer(tiny_model(cfg), str(tmp_path)).save("teacher")
    (tmp_path / "teacher.yaml").write_text(cfg.dump())
    path, weights = str(tmp_path / "teacher.yaml"), str(tmp_path / "teacher.pth")
    teacher = "MODEL.TEACHER.CONFIG_FILE", path, "MODEL.TEACHER.WEIGHTS", weights
    return (*options, *teacher, "MODEL.WEIGHTS", weights)


def test_any_network_of_timm_reads_latents_and_starts_from_its_pixel_weights(pixel_run):
    vit = pixel_run[1] == "timm/test_vit"
    options = "MODEL.TRANSFER.FEATURES.ENABLED", not vit, "MODEL.BRIDGE.STRIDE", 16 if vit else 8
    cfg = tiny_cfg("latent_resnet", *pixel_run, *options)
    model = tiny_model(cfg)
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    ((name, _),) = ((n, m) for n, m in model.named_modules() if isinstance(m, LinearBridge))
    missing = {key for key in model.state_dict() if key not in checkpointer.loaded}
    assert all(key.startswith(name) or key.endswith("num_batches_tracked") for key in missing)
    assert f"{name}.weight" in checkpointer.loaded
    items = make_items(20, size=160)
    assert model.fit_bridge(items, 20) > 0
    losses = model.train()(items[:4])
    assert {"loss_cls", "loss_transfer_class"} <= losses.keys()
    assert ("loss_transfer_c5" in losses) == (not vit)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_what_timm_does_not_have_is_named(tmp_path):
    options = "MODEL.CLASSIFIER.WIDTH", 1.0, "MODEL.CLASSIFIER.NETWORK"
    with pytest.raises(ValueError, match=r"'resnet5'.*resnet50"):
        tiny_model(tiny_cfg("pixel_resnet", *options, "timm/resnet5"))
    cfg = tiny_cfg("latent_resnet", *options, "timm/test_vit")
    cfg.INPUT.IMAGE_SIZE, cfg.MODEL.BRIDGE.STRIDE = 160, 16
    cfg.MODEL.META_ARCHITECTURE = "CompressedClassifier"
    model = tiny_model(cfg)
    with pytest.raises(ValueError, match="no stages at strides"):
        stage_ends(model.network)


def test_a_network_that_asks_its_input_for_more_is_named():
    options = "MODEL.CLASSIFIER.WIDTH", 1.0, "MODEL.CLASSIFIER.NETWORK", "timm/test_vit3"
    cfg = tiny_cfg("latent_resnet", *options, "INPUT.IMAGE_SIZE", 96, "MODEL.BRIDGE.STRIDE", 16)
    with pytest.raises(ValueError, match="test_vit3 does not run on latents of 6 x 6"):
        tiny_model(cfg)


def test_a_joint_training_reads_the_margin_too():
    options = "MODEL.CLASSIFIER.NETWORK", "resnet50", "INPUT.AUGMENTATION", "exact"
    cfg = tiny_cfg("bridge_resnet", *options, "MODEL.META_ARCHITECTURE", "JointClassifier")
    cfg.merge_from_list(["MODEL.JOINT.PERCEPTUAL_WEIGHT", 0.0, "MODEL.BRIDGE.MARGIN", True])
    cfg.INPUT.IMAGE_SIZE, cfg.MODEL.JOINT.PERCEPTUAL = 64, "none"
    model, sizes = tiny_model(cfg), []
    bridge = next(m for m in model.modules() if isinstance(m, LinearBridge))
    bridge.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[2:]))
    with EventStorage():
        model.train()(make_items())
    model.eval()(make_items())
    assert sizes == [(32, 32), (32, 32)]


@pytest.mark.parametrize("size", [64, 80])  # with nothing, and three positions, coded around it
def test_a_classifier_reads_the_features_that_a_decoder_has(size):
    options = "MODEL.CLASSIFIER.NETWORK", "resnet50", "INPUT.IMAGE_SIZE", size
    model = tiny_model(tiny_cfg("bridge_resnet", *options, "MODEL.BRIDGE.MARGIN", True)).eval()
    bridge = next(m for m in model.modules() if isinstance(m, LinearBridge))
    outputs = []
    bridge.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    image = make_items()[0]["image"][:, :size, :size]
    [sample] = model.encode([{"image": F.interpolate(image[None].float(), size)[0].byte()}])
    with torch.no_grad():
        model([sample])
        bridge.margin = 0
        expected = bridge(sample["latent"][None])
    [feature] = outputs[:1]
    assert feature.shape[2:] == (size // 2, size // 2)
    torch.testing.assert_close(feature, expected[:, :, : size // 2, : size // 2])
