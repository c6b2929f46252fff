import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import SafeCheckpointer, Trainer
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.modeling.meta_arch.segmentor import compute_res2
from cdl_d2.nn.backbones.resnet import NarrowResNet
from tests.d2.conftest import CONFIGS

FOLDER = CONFIGS / "segmentation" / "small"
TINY = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 8),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", 8, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
    *("MODEL.BRIDGE.WIDTH", 8, "MODEL.LATENT_RESNET.WIDTH", 1 / 16, "MODEL.FPN.OUT_CHANNELS", 8),
]
PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedSegmentor")


def tiny_cfg(name, *options):
    file = name if name.endswith("_small") else f"{name}_deeplab_small"
    return read_config(FOLDER / f"{file}.yaml", [*TINY, *options])


def tiny_model(cfg):
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


def make_item(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (height, width)
    image = torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, shape, generator=generator)
    labels[:4] = 255
    return {"image": image, "sem_seg": labels, "height": height, "width": width}


@pytest.fixture
def teacher(tmp_path):
    cfg = tiny_cfg("pixel")
    SafeCheckpointer(tiny_model(cfg), str(tmp_path)).save("teacher")
    (tmp_path / "teacher.yaml").write_text(cfg.dump())
    path, weights = str(tmp_path / "teacher.yaml"), str(tmp_path / "teacher.pth")
    return ["MODEL.TEACHER.CONFIG_FILE", path, "MODEL.TEACHER.WEIGHTS", weights]


@pytest.mark.parametrize("name", ["pixel", "reconstruction", "latent", "latent_semantic_fpn_small"])
def test_every_parameter_learns_and_label_maps_have_the_original_size(name):
    model = tiny_model(tiny_cfg(name, *PLAIN)).train()
    losses = model([make_item(96, 64), make_item(70, 90, seed=1)])
    assert losses.keys() == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for size in ((33, 65), (64, 64), (97, 47)):
        item = make_item(*size) | {"height": 2 * size[0], "width": 2 * size[1]}
        output = model.eval()([item])[0]
        assert output["sem_seg"].shape == (3, 2 * size[0], 2 * size[1])
        assert ("bits" in output) == (name != "pixel")


@pytest.mark.parametrize("kind", ["deconv", "res"])
def test_res2_is_taught_by_the_frozen_first_layers(teacher, kind):
    model = tiny_model(tiny_cfg("latent", *teacher, "MODEL.BRIDGE.KIND", kind)).train()
    losses = model([make_item(96, 64), make_item(70, 90, seed=1)])
    assert losses.keys() == {"loss_sem_seg", "loss_transfer_res2"}
    losses["loss_transfer_res2"].backward()
    reached = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {"bridge"}  # formula (2): nothing behind the feature
    teacher_network = model.teacher
    assert all(p.grad is None for p in teacher_network.parameters())
    plain = tiny_model(tiny_cfg("latent", *PLAIN, "MODEL.BRIDGE.KIND", kind))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_the_teacher_feature_is_that_of_its_whole_network(teacher):
    model = tiny_model(tiny_cfg("latent", *teacher))
    model.prepare_teacher()
    teacher_network, item = model.teacher, make_item(64, 96)
    image = (item["image"] - teacher_network.pixel_mean) / teacher_network.pixel_std
    whole = teacher_network.backbone(image[None])["res2"]
    assert torch.equal(compute_res2(teacher_network.backbone, image[None]), whole)
    batch = model.batch(model.encode([item]))
    assert torch.equal(model._teacher_feature([item], batch), whole)


@pytest.mark.parametrize(
    "off", [("MODEL.TRANSFER.FEATURES.ENABLED", False), ("MODEL.TRANSFER.WEIGHT", 0.0)]
)
def test_transfer_that_is_switched_off_asks_no_teacher(off):
    nowhere = "MODEL.TEACHER.CONFIG_FILE", "nowhere.yaml"
    model = tiny_model(tiny_cfg("latent", *nowhere, *off)).train()
    model.prepare_teacher()
    assert model([make_item(64, 64), make_item(64, 64)]).keys() == {"loss_sem_seg"}


def test_a_teacher_without_res2_is_named(tmp_path):
    cfg = tiny_cfg("latent_semantic_fpn_small", *PLAIN, "INPUT.DOMAIN", "image")
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.RES5_DILATION = 1
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    SafeCheckpointer(tiny_model(cfg), str(tmp_path)).save("teacher")
    (tmp_path / "teacher.yaml").write_text(cfg.dump())
    path, weights = str(tmp_path / "teacher.yaml"), str(tmp_path / "teacher.pth")
    options = "MODEL.TEACHER.CONFIG_FILE", path, "MODEL.TEACHER.WEIGHTS", weights
    with pytest.raises(ValueError, match="res2"):
        tiny_model(tiny_cfg("latent", *options)).prepare_teacher()


def test_padding_is_ignored(teacher):
    """The padding that a second, larger image adds changes neither loss of the first."""
    model = tiny_model(tiny_cfg("latent", *teacher)).train()
    batch = model.batch(model.encode([make_item(64, 64), make_item(96, 80, seed=1)]))
    labels = model.labels([make_item(64, 64), make_item(96, 80, seed=1)], batch)
    assert labels.shape == (2, 96, 80)
    assert (labels[0, 64:] == 255).all() and (labels[0, :, 64:] == 255).all()


def test_a_gate_learns_to_save_bits():
    from detectron2.utils.events import EventStorage

    options = "MODEL.SELECTION.KIND", "gate", "MODEL.SELECTION.RATE_WEIGHT", 2.0
    model = tiny_model(tiny_cfg("latent", *PLAIN, *options, "SOLVER.MAX_ITER", 3)).train()
    temperatures = []
    with EventStorage() as storage:
        for _ in range(3):
            losses = model([make_item(64, 64)] * 2)
            temperatures.append(model.selection.chooser.temperature)
            storage.step()
    assert losses.keys() == {"loss_sem_seg", "loss_rate"}
    assert temperatures == pytest.approx([5.0, 5.0**0.5 * 0.5**0.5, 0.5])
    losses["loss_rate"].backward()
    assert model.selection.chooser.score[2].bias.grad[192:].sum() > 0  # keep fewer


def test_only_kept_channels_are_seen_and_counted():
    kept = [3, 50, 191]
    options = "MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.CHANNELS", kept
    whole = tiny_model(tiny_cfg("latent", *PLAIN)).eval()
    model = tiny_model(tiny_cfg("latent", *PLAIN, *options)).eval()
    model.load_state_dict(whole.state_dict(), strict=False)
    item = whole.encode([make_item(64, 96)])[0]
    masked = {**item, "latent": torch.zeros_like(item["latent"])}
    masked["latent"][kept] = item["latent"][kept]
    output = model([item])[0]
    assert torch.equal(output["sem_seg"], whole([masked])[0]["sem_seg"])
    expected = float(item["channel_bits"][kept].sum()) + item["side_bits"]
    assert output["bits"] == pytest.approx(expected)
    assert output["bits"] < whole([item])[0]["bits"]
    assert torch.equal(output["sem_seg"], model([item])[0]["sem_seg"])


@pytest.mark.parametrize("label", [3, 100])
def test_a_label_outside_the_set_is_named(label):
    model, item = tiny_model(tiny_cfg("latent", *PLAIN)).train(), make_item(64, 64)
    item["sem_seg"][10, 10] = label
    with pytest.raises(ValueError, match=rf"label {label} is neither in 0\.\.2"):
        model([item, make_item(64, 64)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.BRIDGE.KIND", "linear"], "'linear' is not one of"),
        (["MODEL.SELECTION.KIND", "best"], "'best' is not one of none, gate, fixed"),
        (
            ["MODEL.SELECTION.KIND", "gate", "MODEL.SELECTION.TEMPERATURES", (0.0, 1.0)],
            r"\(0\.0, 1\.0\)",
        ),
        (["MODEL.RESNETS.OUT_FEATURES", ["res5"]], "lacks 'res2'"),
        (["MODEL.SELECTION.KIND", "fixed"], r"CHANNELS \[\].*KIND fixed needs"),
        (
            ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.CHANNELS", [1.7]],
            r"CHANNELS \[1\.7\].*KIND fixed needs",
        ),
        (
            ["MODEL.SELECTION.KIND", "gate", "MODEL.SELECTION.RATE_WEIGHT", -1.0],
            "must not be below 0",
        ),
        (
            ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.CHANNELS", [192]],
            r"MODEL\.SELECTION\.CHANNELS: .* 0\.\.191",
        ),
        (["MODEL.RESNETS.RES5_DILATION", 1], "RES5_DILATION"),
        (["MODEL.TEACHER.CONFIG_FILE", ""], "needs a teacher"),
        (["MODEL.TRANSFER.DISTANCE", "cosine"], "distance 'cosine'"),
        (["MODEL.RESNETS.RES2_OUT_CHANNELS", 32], "RES2_OUT_CHANNELS is 32 for the student"),
        (["MODEL.TEACHER.WEIGHTS", "nowhere.pth"], r"nowhere\.pth.*MODEL\.TEACHER\.WEIGHTS"),
    ],
)
def test_what_does_not_fit_is_named(teacher, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        tiny_model(tiny_cfg("latent", *teacher, *options)).prepare_teacher()


def test_all_segmentors_begin_with_torchvisions_file_of_a_resnet(tmp_path):
    torch.manual_seed(0)
    resnet = NarrowResNet(0.25).eval()
    torch.save(resnet.state_dict(), tmp_path / "resnet50.pth")
    as_wide = [
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
        *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    ]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stem = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
        res2 = resnet.layer1(stem)
        res3 = resnet.layer2(res2)
    for name in ("pixel", "reconstruction", "latent"):
        model = tiny_model(tiny_cfg(name, *PLAIN, *as_wide)).eval()
        SafeCheckpointer(model).load(str(tmp_path / "resnet50.pth"))
        backbone = model.backbone
        with torch.no_grad():
            assert torch.allclose(backbone.res3(res2), res3, atol=1e-5)
            if name != "latent":
                assert torch.allclose(compute_res2(backbone, image), res2, atol=1e-5)
        last = resnet.layer4[2].conv3.weight
        assert torch.equal(backbone.res5[2].conv3.weight, last)
