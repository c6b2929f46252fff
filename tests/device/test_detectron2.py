"""Every meta-architecture trains and predicts on the device, as it does on the CPU."""

import copy

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.modeling import build_backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from cdl_d2.d2 import SafeCheckpointer, Trainer
from tests.d2.conftest import make_item, small_cfg, small_model
from tests.d2.modeling import test_bridged_backbone as bridges
from tests.d2.modeling import test_classifier as classifiers
from tests.d2.modeling import test_meta_architectures as detectors
from tests.d2.modeling import test_multitask as multitask
from tests.d2.modeling import test_segmentor as segmentors
from tests.d2.modeling.test_joint_multitask import joint_cfg
from tests.second_device import NAME

ITEM = detectors.make_panoptic_item(64, 96)
PLAIN = ["MODEL.META_ARCHITECTURE", "CompressedRCNN"]
GATE = ["MODEL.SELECTION.KIND", "gate"]
FIXED = ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.CHANNELS", [3, 50, 191]]
OTHER_TRANSFER = [
    *("MODEL.TRANSFER.DISTANCE", "l2norm", "MODEL.TRANSFER.ANCHORS", "sampled"),
    *("MODEL.TRANSFER.MASKS", "foreground", "MODEL.TRANSFER.HEADS", "teacher"),
    *("MODEL.TRANSFER.IGNORE_PADDING", False),
]
DETECTORS = {
    "gate": ("latent", [*PLAIN, *GATE]),
    "fixed": ("latent", [*PLAIN, *FIXED]),
    "decoded": ("reconstruction", PLAIN),
    **{kind: detectors.KINDS[kind] for kind in ("retinanet", "fcos", "panoptic")},
}


def tensors_of(value):
    """List the tensors in what a model returns."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Instances):
        value = value.get_fields()
    if isinstance(value, Boxes):
        return [value.tensor]
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    parts = value if isinstance(value, (list, tuple)) else []
    return [tensor for part in parts for tensor in tensors_of(part)]


def assert_works(cfg, items, build=small_model):
    """Train a step on the device and predict; predictions are those of the CPU."""
    cfg = cfg.clone()
    cfg.defrost()
    here, cfg.MODEL.DEVICE = build(cfg), NAME
    there = build(cfg)
    optimizer = Trainer.build_optimizer(cfg, there)
    with EventStorage(3):
        losses = there.train()(items)
    assert all(loss.device.type == NAME and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    here.load_state_dict(there.state_dict())
    with torch.no_grad():
        ours, theirs = (tensors_of(model.eval()(items[:1])) for model in (here, there))
    assert ours and all(tensor.device.type == NAME for tensor in theirs)
    for first, second in zip(ours, theirs, strict=True):
        assert torch.allclose(first.float(), second.cpu().float(), rtol=1e-4, atol=1e-4)
    return losses


@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors(kind):
    config, options = DETECTORS[kind]
    assert_works(small_cfg(config, *options), [ITEM])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Options that name the files of a small Mask R-CNN."""
    return saved(small_model, small_cfg("pixel"), tmp_path_factory.mktemp("teacher"))


def saved(build, cfg, folder):
    """Save a model and its config; return the options that name them as the teacher."""
    SafeCheckpointer(build(cfg), str(folder)).save("teacher")
    (folder / "teacher.yaml").write_text(cfg.dump())
    path, weights = str(folder / "teacher.yaml"), str(folder / "teacher.pth")
    return ["MODEL.TEACHER.CONFIG_FILE", path, "MODEL.TEACHER.WEIGHTS", weights]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("latent", []),
        ("latent_panoptic_fpn", [*OTHER_TRANSFER, *GATE]),
    ],
)
def test_detectors_with_a_teacher(teacher, config, options):
    losses = assert_works(small_cfg(config, *teacher, *options), [ITEM])
    assert {"loss_transfer_features", "loss_transfer_mask"} <= losses.keys()


@pytest.mark.parametrize(
    "options",
    [
        ["MODEL.BRIDGE.STRIDE", 16, "MODEL.BRIDGE.WIDTH", 8],
        ["MODEL.BRIDGE.STRIDE", 8],
        ["MODEL.BRIDGE.STRIDE", 4, "MODEL.BRIDGE.FROZEN", True],
        ["MODEL.BRIDGE.ENTRY", "stem"],
        ["MODEL.BRIDGE.ENTRY", "res2", "MODEL.BRIDGE.FROZEN", True],
        ["MODEL.BRIDGE.ENTRY", "res2", "MODEL.BRIDGE.KIND", "res", "MODEL.BRIDGE.WIDTH", 8],
        ["MODEL.BRIDGE.ENTRY", "res2", "MODEL.BRIDGE.KIND", "deconv"],
        ["MODEL.BRIDGE.ENTRY", "res3", *bridges.P3],
    ],
)
def test_bridges(options):
    cfg = small_cfg("bridge", *options)
    here = build_backbone(cfg)
    there = copy.deepcopy(here).to(NAME)
    latent = torch.rand(1, 192, 8, 8)
    ours, theirs = here(latent), there(latent.to(NAME))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key].cpu(), atol=1e-4) for key in ours)
    sum(feature.sum() for feature in theirs.values()).backward()
    assert all(p.grad is not None for p in there.parameters() if p.requires_grad)


def test_bridges_and_translations_are_fitted_on_the_device(teacher):
    options = ["MODEL.WEIGHTS", teacher[-1], "MODEL.CODEC.QUALITIES", [1, 2]]
    cfg, large = small_cfg("bridge", *teacher, *options), make_item(512, 512)
    patches = large["image"][:, ::16, ::16]  # which a codec keeps, unlike noise
    large["image"] = patches.repeat_interleave(16, 1).repeat_interleave(16, 2)
    features = []
    for device in ("cpu", NAME):
        cfg.MODEL.DEVICE = device
        model = small_model(cfg)
        SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
        assert model.fit_bridge([large], 1) > 0
        with torch.no_grad():
            features.append(model.eval().backbone(model.batch(model.encode([large])).tensor)["p2"])
    assert features[1].device.type == NAME
    assert torch.allclose(features[0], features[1].cpu(), atol=1e-3)
    with EventStorage():
        assert all(loss.isfinite() for loss in model.train()([ITEM]).values())


@pytest.mark.parametrize("name", ["pixel", "reconstruction", "latent_semantic_fpn_small"])
def test_segmentors(name):
    items = [segmentors.make_item(64, 80), segmentors.make_item(48, 64, seed=1)]
    assert_works(segmentors.tiny_cfg(name, *segmentors.PLAIN), items, segmentors.tiny_model)


@pytest.mark.parametrize("options", [["MODEL.BRIDGE.KIND", "res", *GATE], FIXED])
def test_segmentors_with_a_teacher(segmentor, options):
    cfg = segmentors.tiny_cfg("latent", *segmentor, *options)
    items = [segmentors.make_item(64, 80), segmentors.make_item(48, 64, seed=1)]
    assert "loss_transfer_res2" in assert_works(cfg, items, segmentors.tiny_model)


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory):
    """Options that name the files of a small segmentor."""
    cfg, folder = segmentors.tiny_cfg("pixel"), tmp_path_factory.mktemp("segmentor")
    return saved(segmentors.tiny_model, cfg, folder)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pixel_resnet", []),
        ("reconstruction_resnet", ["TEST.DISTORTION", True]),
        ("cresnet39", []),
        ("joint_classifier", ["MODEL.JOINT.QUANTIZATION", "noise", "TEST.DISTORTION", True]),
    ],
)
def test_classifiers(name, options):
    cfg = classifiers.tiny_cfg(name, *options)
    assert_works(cfg, classifiers.make_items(), classifiers.tiny_model)


def test_classifiers_with_a_teacher(tmp_path):
    options = saved(classifiers.tiny_model, classifiers.tiny_cfg("pixel_resnet"), tmp_path)
    cfg = classifiers.tiny_cfg("latent_resnet", *options, "MODEL.TRANSFER.FEATURES.C4", 0.5)
    losses = assert_works(cfg, classifiers.make_items(), classifiers.tiny_model)
    assert "loss_transfer_c4" in losses


@pytest.mark.parametrize("name", ["latent", "pixel"])
def test_multitask_models(name):
    cfg = multitask.tiny_cfg(name, "MODEL.TASKS.WEIGHTING", "uncertainty")
    assert_works(cfg, [multitask.make_item(64, 64)], multitask.tiny_model)


def test_a_codec_that_learns_with_several_tasks():
    items = [multitask.make_item(64, 64), multitask.make_item(64, 64, seed=1)]
    cfg = joint_cfg("MODEL.CODEC.NAME", "tiny-zhang2022-layered", "TEST.DISTORTION", True)
    losses = assert_works(cfg, items, multitask.tiny_model)
    assert {"loss_adversarial", "loss_discriminator", "loss_parsing"} <= losses.keys()
