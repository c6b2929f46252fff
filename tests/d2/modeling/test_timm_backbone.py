from unittest import TestCase

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")
pytest.importorskip("timm", reason="timm is not installed")

import timm
from detectron2.modeling import build_backbone

from cdl_d2.codec.io.weights_file import save_checkpoint
from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.modeling.backbone import timm_backbone
from cdl_d2.errors import CdlError
from cdl_d2.prediction.loading import load_model
from tests.d2.conftest import CONFIGS
from tests.d2.modeling.test_multitask import TINY as TINY_MULTITASK
from tests.d2.modeling.test_multitask import make_item as make_multitask
from tests.d2.modeling.test_segmentor import make_item, tiny_model

FOLDER = CONFIGS / "segmentation" / "small"
SMALLEST = ["MODEL.TIMM.NAME", "test_resnet", "MODEL.TIMM.INIT", ""]
TINY = [
    *("MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 8, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
]


def tiny_cfg(kind, *options):
    return read_config(FOLDER / f"{kind}_deeplab_lite0.yaml", [*TINY, *SMALLEST, *options])


@pytest.mark.parametrize(
    ("name", "stride"),
    [("test_resnet", 32), ("test_resnet", 16), ("test_convnext", 32), ("test_efficientnet", 8)],
)
def test_stages_have_the_shapes_that_they_say(name, stride):
    backbone = build_backbone(
        tiny_cfg("pixel", "MODEL.TIMM.NAME", name, "MODEL.TIMM.OUTPUT_STRIDE", stride)
    )
    features = backbone.eval()(torch.rand(2, 3, 64, 96))
    assert list(features) == list(backbone.output_shape()) == ["res2", "res3", "res4", "res5"]
    for key, shape in backbone.output_shape().items():
        assert features[key].shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
    assert backbone.output_shape()["res5"].stride == stride


def test_it_starts_from_a_classifiers_file_whatever_its_classes(tmp_path):
    torch.manual_seed(1)
    trained = timm.create_model("test_resnet", num_classes=5)
    save_checkpoint(tmp_path / "trained.pth", trained.state_dict())
    cfg = tiny_cfg("pixel", "MODEL.TIMM.INIT", str(tmp_path / "trained.pth"))
    state = build_backbone(cfg).network.state_dict()
    trained_state = trained.state_dict()
    assert state and all(torch.equal(value, trained_state[key]) for key, value in state.items())


def test_a_trained_model_loads_without_the_file_that_it_began_with(tmp_path):
    start = tmp_path / "start.pth"
    save_checkpoint(start, timm.create_model("test_resnet").state_dict())
    cfg = tiny_cfg("pixel", "MODEL.TIMM.INIT", str(start))
    model = tiny_model(cfg)
    SafeCheckpointer(model, str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    start.unlink()
    loaded = load_model(tmp_path, "cpu").network.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


def test_frozen_norms_keep_their_statistics_and_learn_nothing():
    for norm, frozen in (("FrozenBN", True), ("BN", False)):
        torch.manual_seed(0)
        backbone = build_backbone(tiny_cfg("pixel", "MODEL.TIMM.NORM", norm)).train()
        key = next(key for key in backbone.state_dict() if key.endswith("running_mean"))
        before = backbone.state_dict()[key].clone()
        backbone(torch.rand(2, 3, 64, 64))
        assert torch.equal(backbone.state_dict()[key], before) == frozen
        norms = {key.rpartition(".")[0] for key in backbone.state_dict() if "running_mean" in key}
        learned = {name.rpartition(".")[0] for name, _ in backbone.named_parameters()}
        assert norms.isdisjoint(learned) == frozen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.TIMM.NAME", "test_vit"], "output_stride"),
        (["MODEL.TIMM.NAME", "test_vit", "MODEL.TIMM.OUTPUT_STRIDE", 32], "VisionTransformer"),
        (["MODEL.TIMM.NAME", "resnet_of_nobody"], "resnet_of_nobody"),
        (["MODEL.TIMM.NORM", "LayerNorm"], "LayerNorm"),
        (["MODEL.TIMM.OUT_FEATURES", ["res1"]], "res1"),
    ],
)
def test_what_cannot_be_built_is_named(options, message):
    with pytest.raises(CdlError, match=message):
        build_backbone(tiny_cfg("pixel", *options))


def test_pixels_normalized_otherwise_than_it_was_trained_for_are_warned_of(tmp_path):
    save_checkpoint(tmp_path / "trained.pth", timm.create_model("test_resnet").state_dict())
    options = ["MODEL.TIMM.INIT", str(tmp_path / "trained.pth")]
    mean = [255 * value for value in timm.create_model("test_resnet").pretrained_cfg["mean"]]
    case, logger = TestCase(), timm_backbone.__name__
    for pixel_mean, expected in ((mean, case.assertNoLogs), ([0.0] * 3, case.assertLogs)):
        with expected(logger, "WARNING"):
            build_backbone(tiny_cfg("pixel", *options, "MODEL.PIXEL_MEAN", pixel_mean))


def test_a_bridged_segmentor_takes_the_pixel_networks_weights_and_is_taught_by_it(tmp_path):
    pixel = tiny_model(tiny_cfg("pixel"))
    SafeCheckpointer(pixel, str(tmp_path)).save("teacher")
    (tmp_path / "teacher.yaml").write_text(tiny_cfg("pixel").dump())
    cfg = tiny_cfg(
        "bridge",
        *("MODEL.TEACHER.CONFIG_FILE", str(tmp_path / "teacher.yaml")),
        *("MODEL.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth")),
    )
    student = tiny_model(cfg)
    checkpointer = SafeCheckpointer(student)
    checkpointer.load(str(tmp_path / "teacher.pth"), checkpointables=[])
    lacking = pixel.state_dict().keys() - checkpointer.loaded
    assert all(key.endswith("num_batches_tracked") for key in lacking)
    losses = student.train()([make_item(96, 64), make_item(70, 90, seed=1)])
    assert losses.keys() == {"loss_sem_seg", "loss_transfer_res2"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    output = student.eval()([make_item(33, 65)])[0]
    assert output["sem_seg"].shape == (3, 33, 65) and output["bits"] > 0


@pytest.mark.parametrize("kind", ["pixel", "bridge"])
def test_several_tasks_learn_on_its_stages(kind):
    path = CONFIGS / "multitask" / "small" / f"{kind}_multitask_lite0.yaml"
    model = tiny_model(read_config(path, [*TINY_MULTITASK, *SMALLEST])).train()
    losses = model([make_multitask(96, 64), make_multitask(70, 90, seed=1)])
    assert losses.keys() == {"loss_attributes", "loss_parsing"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
