from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.errors import CdlError
from cdl_d2.tv import load_detector, load_rgb_detector, save_detector
from cdl_d2.tv.checkpoint import check_teacher, keep_classes, load_initial_weights
from tests.tv.conftest import make_item, tiny_config, tiny_detector


@pytest.fixture
def teacher_file(tmp_path):
    path = tmp_path / "teacher.pth"
    save_detector(path, tiny_config("image"), tiny_detector("image").state_dict())
    return path


@pytest.mark.parametrize("domain", ["latent", "reconstruction", "image"])
def test_a_detector_comes_back_as_it_was(tmp_path, domain):
    detector = tiny_detector(domain).eval()
    save_detector(tmp_path / "a.pth", tiny_config(domain), detector.state_dict())
    again, config = load_detector(tmp_path / "a.pth")
    item = {"image": make_item(64, 96)["image"]}
    assert config == tiny_config(domain)
    assert torch.equal(again([item])[0]["scores"], detector([item])[0]["scores"])


def test_a_flipped_bit_in_the_weights_is_refused(teacher_file):
    content = bytearray(teacher_file.read_bytes())
    content[len(content) // 2] ^= 4
    teacher_file.write_bytes(content)
    with pytest.raises(CdlError, match=r"teacher\.pth"):
        load_detector(teacher_file)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = tiny_detector().state_dict()
    state["rpn.head.cls_logits.weight"][0] = float("nan")
    save_detector(tmp_path / "a.pth", tiny_config(), state)
    with pytest.raises(CdlError, match=r"a\.pth .*not finite, in rpn\.head\.cls_logits\.weight"):
        load_detector(tmp_path / "a.pth")


def test_torchvisions_own_weights_make_a_teacher(tmp_path, monkeypatch):
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    weights = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    path = tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    # As the file of 2019 was written.
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # torch.hub finds it there, already downloaded
    image = torch.rand(1, 3, 64, 64)
    for source in ("coco", str(path)):
        detector, config = load_rgb_detector(source)
        assert config.classes[0] == "person" and len(config.classes) == 90
        with torch.no_grad():
            assert torch.equal(detector.backbone(image)["0"], theirs.backbone(image)["0"])
    assert load_initial_weights(theirs, str(path)) == len(theirs.state_dict())


def test_a_teacher_keeps_the_classes_of_its_student(teacher_file):
    teacher, config = load_rgb_detector(str(teacher_file))
    pyramid = {k: torch.rand(1, 16, n, n) for k, n in zip("0123", (16, 8, 4, 2), strict=True)}
    arguments = pyramid, [torch.tensor([[0.0, 0, 32, 32]])], [(64, 64)]
    scores, boxes = teacher.boxes_at(*arguments)
    masks = teacher.masks_at(*arguments)
    kept = keep_classes(teacher, config, ("square",))
    assert kept.classes == ("square",)
    fewer, moved = teacher.boxes_at(*arguments)
    assert torch.allclose(fewer, scores[:, [0, 2]])
    assert torch.allclose(moved[:, 4:], boxes[:, 8:])
    assert torch.allclose(teacher.masks_at(*arguments)[:, 1], masks[:, 2])
    with pytest.raises(ValueError, match="the class 'cat'"):
        keep_classes(teacher, kept, ("cat",))


def test_a_teacher_that_cannot_be_compared_is_refused():
    ours = tiny_config()
    other = replace(ours, architecture=replace(ours.architecture, channels=32))
    with pytest.raises(ValueError, match="channels is 16 for the student but 32"):
        check_teacher(ours, other)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_weights_are_read_as_training_scripts_write_them(tmp_path, prefix):
    detector, config = tiny_detector("image"), tiny_config("image")
    wrapped = {f"{prefix}{key}": value for key, value in detector.state_dict().items()}
    save_detector(tmp_path / "a.pth", config, wrapped, args=Namespace(lr=0.1))
    teacher, _ = load_rgb_detector(str(tmp_path / "a.pth"))
    assert fingerprint(teacher) == fingerprint(detector)
    torch.save({"net": wrapped, "epoch": 3}, tmp_path / "b.pth")
    again = tiny_detector("image")
    assert load_initial_weights(again, str(tmp_path / "b.pth")) == len(wrapped)
    assert fingerprint(again) == fingerprint(detector)


def test_an_unknown_entry_is_refused_by_name(tmp_path):
    state = tiny_detector().state_dict() | {"roi_heads.extra": torch.ones(1)}
    save_detector(tmp_path / "a.pth", tiny_config(), state)
    with pytest.raises(CdlError, match=r"a\.pth .*roi_heads\.extra"):
        load_detector(tmp_path / "a.pth")


def test_a_student_cannot_teach(tmp_path):
    save_detector(tmp_path / "a.pth", tiny_config(), tiny_detector().state_dict())
    with pytest.raises(ValueError, match="domain 'latent'"):
        load_rgb_detector(str(tmp_path / "a.pth"))


def test_initial_weights_are_taken_where_they_fit(teacher_file):
    detector = tiny_detector()
    assert load_initial_weights(detector, str(teacher_file)) > 10
    taken = torch.load(teacher_file, weights_only=True)["model"]
    assert torch.equal(detector.rpn.head.cls_logits.weight, taken["rpn.head.cls_logits.weight"])


@pytest.mark.parametrize(
    "content",
    [
        {"config": {"domain": "latent"}, "model": {}},
        {"model": {}},
        {"config": [], "model": {}},
        {"config": {}},
        {"config": {"classes": [], "codec": torch.ones(2)}, "model": {}},
    ],
)
def test_a_file_that_holds_no_detector_is_named(tmp_path, content):
    path = tmp_path / "broken.pth"
    torch.save(content, path)
    with pytest.raises(CdlError, match=r"broken\.pth"):
        load_detector(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        load_detector(tmp_path / "missing.pth")


def test_weights_of_another_architecture_are_refused(tmp_path):
    state = tiny_detector().state_dict()
    del state["rpn.head.cls_logits.weight"]
    save_detector(tmp_path / "a.pth", tiny_config(), state)
    with pytest.raises(ValueError, match=r"cls_logits\.weight"):
        load_detector(tmp_path / "a.pth")
