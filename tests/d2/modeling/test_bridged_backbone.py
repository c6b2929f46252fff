import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.engine.trainer import check_bridged_weights
from cdl_d2.d2.modeling.transfer_checks import check_detectors
from cdl_d2.nn.bridge.bridge import Bridge
from cdl_d2.nn.bridge.input_adapter import InputAdapter
from cdl_d2.nn.bridge.linear_bridge import LinearBridge
from cdl_d2.transfer import DetectorTransfer
from tests.d2.conftest import CONFIGS, PIXEL, SMALL, make_item, small_cfg, small_model

P3 = [
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32], [64], [128]]),
    *("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5", "p6"]),
    *("MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p4", "p5"]),
]
ENTRIES = {
    "conv1": [],
    "stem": [],
    "res2": [],
    "res3": P3,
}


def bridge_cfg(teacher_files, entry="conv1", *options):
    path, weights = teacher_files
    cfg = read_config(
        CONFIGS / "detection" / "small" / "bridge_mask_rcnn_small.yaml", [*SMALL, *PIXEL]
    )
    cfg.merge_from_list([*("DATASETS.TRAIN", (), "DATASETS.TEST", ()), *ENTRIES[entry]])
    cfg.merge_from_list(["MODEL.BRIDGE.ENTRY", entry, "MODEL.WEIGHTS", str(weights)])
    cfg.merge_from_list(
        ["MODEL.TEACHER.CONFIG_FILE", str(path), "MODEL.TEACHER.WEIGHTS", str(weights), *options]
    )
    return cfg


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_pixel_checkpoint_loads_into_all_behind_the_entry_and_nothing_else(teacher_files, entry):
    cfg = bridge_cfg(teacher_files, entry)
    model = small_model(cfg)
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    rgb_state = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    state = model.state_dict()
    named = {key for key in state if not key.endswith("num_batches_tracked")}
    bridges = [name for name, m in model.named_modules() if isinstance(m, (Bridge, LinearBridge))]
    lacking = {key for key in named - checkpointer.loaded if not key.startswith(bridges[0])}
    assert len(bridges) == 1 and not lacking
    common = checkpointer.loaded & rgb_state.keys()
    assert all(torch.equal(state[key], rgb_state[key]) for key in common)
    left_out = ["stem", "res2", "res3"][: list(ENTRIES).index(entry)]
    assert not any(f"bottom_up.{name}." in key for key in state for name in left_out)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(("size", "margin"), [((33, 65), False), ((97, 47), True)])
def test_student_and_teacher_match_for_odd_sizes_and_every_parameter_learns(
    teacher_files, storage, entry, size, margin
):
    cfg = bridge_cfg(teacher_files, entry, "MODEL.BRIDGE.MARGIN", margin)
    model = small_model(cfg).train()
    losses = model([make_item(*size, boxes=((2, 2, 30, 30),)), make_item(64, 64)])
    terms = {key for key in losses if "transfer" in key}
    assert len(terms) == 6 and all(losses[term].isfinite() for term in terms)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_training_begins_with_a_fitted_bridge(teacher_files, storage):
    cfg = bridge_cfg(teacher_files)
    model = small_model(cfg)
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    items = [make_item(64, 96, seed=seed) for seed in range(20)]
    for item in items:  # patches of 8 pixels a side, which a codec keeps, unlike noise
        item["image"] = item["image"][:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    model.backbone.bottom_up.stem.conv1.expand.weight.data.zero_()
    assert model.fit_bridge(items, 20) > 0.8
    assert model.fit_bridge(items, 20) is None
    losses = model.train()(items[:2])
    model.backbone.bottom_up.stem.conv1.expand.weight.data.zero_()
    assert losses["loss_transfer_features"] < model(items[:2])["loss_transfer_features"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_bridge_reads_all_coded_positions_and_fills_what_is_beyond_an_image(teacher_files, entry):
    model = small_model(bridge_cfg(teacher_files, entry, "MODEL.BRIDGE.MARGIN", True)).eval()
    bridge = next(m for m in model.modules() if isinstance(m, InputAdapter))
    outputs = []
    bridge.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    items = [make_item(70, 90), make_item(100, 129, seed=1)]  # in one padded batch
    with torch.no_grad():
        model.backbone(model.preprocess_image(model.encode(items)).tensor)
        [batch], bridge.margin = outputs, 0
        for item, feature in zip(items, batch, strict=True):
            latent = model.coded_input.codec.encode(item["image"].flip(0) / 255)  # BGR
            rows, columns = bridge.output_size(*item["image"].shape[1:])
            expected = bridge(latent.y_hat[None])[0, :, :rows, :columns]
            assert torch.allclose(feature[:, :rows, :columns], expected, atol=1e-4)
            beyond = torch.cat(
                [feature[:, rows:].flatten(1), feature[:, :, columns:].flatten(1)], 1
            )
            assert beyond.numel() and torch.allclose(beyond, beyond[:, :1], atol=1e-5)


@pytest.mark.parametrize("margin", [False, True])
def test_batch_mates_do_not_change_detections(teacher_files, margin):
    model = small_model(bridge_cfg(teacher_files, "conv1", "MODEL.BRIDGE.MARGIN", margin)).eval()
    small, large = make_item(70, 90), make_item(130, 200, seed=1)
    together = model([small, large])
    for item, output in zip((small, large), together, strict=True):
        alone = model([item])[0]["instances"]
        assert torch.allclose(alone.scores, output["instances"].scores, atol=1e-4)


def test_weights_that_fit_nothing_behind_the_entry_are_refused(teacher_files, tmp_path):
    cfg = bridge_cfg(teacher_files, "stem", "OUTPUT_DIR", str(tmp_path))
    state = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    state["model"] = {k: v for k, v in state["model"].items() if "bottom_up" not in k}
    torch.save(state, cfg.MODEL.WEIGHTS)
    checkpointer = SafeCheckpointer(small_model(cfg))
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    with pytest.raises(ValueError, match="fits res2, res3, res4, res5 behind the bridge"):
        check_bridged_weights(checkpointer)


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ("stem", ["MODEL.BRIDGE.ENTRY", "res5"], "'res5' is not one of"),
        ("stem", ["MODEL.BRIDGE.KIND", "linear"], "'linear' is not one of"),
        ("res3", ["MODEL.BRIDGE.KIND", "deconv"], "ends at stride 4, not 8"),
        ("res3", ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]], "has res2"),
        ("conv1", ["MODEL.BRIDGE.BACKBONE", "build_bridged_backbone"], "no RGB backbone"),
        ("conv1", ["MODEL.BRIDGE.BACKBONE", "nothing"], "'nothing' is no RGB backbone"),
        ("conv1", ["INPUT.DOMAIN", "reconstruction"], "not INPUT.DOMAIN 'reconstruction'"),
    ],
)
def test_what_no_bridge_can_be_is_named(teacher_files, entry, options, message):
    with pytest.raises(ValueError, match=message):
        small_model(bridge_cfg(teacher_files, entry, *options))


def test_levels_that_both_have_need_the_same_anchors(teacher_files):
    student = bridge_cfg(teacher_files, "res3")
    student_model, teacher_model = small_model(student), small_model(bridge_cfg(teacher_files))
    check_detectors(student_model, teacher_model, DetectorTransfer())
    student.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [32], [64], [128]]
    with pytest.raises(ValueError, match="anchors of p3"):
        check_detectors(small_model(student), teacher_model, DetectorTransfer())
    backbone = student_model.backbone
    backbone._out_features = ["p7"]
    backbone._out_feature_channels["p7"] = backbone._out_feature_strides["p7"] = 64
    with pytest.raises(ValueError, match="no level"):
        check_detectors(student_model, teacher_model, DetectorTransfer())


def test_a_margin_without_a_bridge_is_refused():
    with pytest.raises(ValueError, match=r"MODEL\.BRIDGE\.MARGIN"):
        small_model(small_cfg("latent", "MODEL.BRIDGE.MARGIN", True))


def test_a_bridge_is_fitted_to_what_a_batch_gives_it(teacher_files):
    cfg = bridge_cfg(teacher_files, "conv1", "MODEL.BRIDGE.MARGIN", True)
    model = small_model(cfg).eval()
    bridge = next(m for m in model.modules() if isinstance(m, LinearBridge))
    items = [make_item(64, 64, seed=seed) for seed in range(6)]  # nothing is coded around them
    explained = model.fit_bridge(items, len(items))
    bridge.norm = bridge.activation = None
    with torch.no_grad():
        features = torch.cat(
            [bridge(model.preprocess_image(model.encode([item])).tensor) for item in items]
        )
        pixels = torch.stack([model.normalized(item["image"]) for item in items])
        targets = bridge.convolve_pixels(pixels)
    variance = (targets - targets.mean((0, 2, 3), keepdim=True)).square().sum()
    share = 1 - (features - targets).square().sum() / variance
    assert share.item() == pytest.approx(explained, abs=5e-3)
