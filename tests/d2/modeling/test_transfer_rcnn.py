from dataclasses import replace

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.config_files import read_config, trust_program
from cdl_d2.d2.detectron2_zoo import DETECTRON2_ZOO
from cdl_d2.d2.modeling.transfer_checks import check_detectors
from cdl_d2.errors import CdlError
from cdl_d2.transfer import DetectorTransfer
from tests.d2.conftest import PIXEL, make_item, small_cfg, small_model

TERMS = {"objectness", "anchor_deltas", "class", "box_deltas", "mask", "features"}


def transfer_losses(losses) -> dict[str, torch.Tensor]:
    return {k.removeprefix("loss_transfer_"): v for k, v in losses.items() if "transfer" in k}


def train_step(cfg, *items, **changes):
    model = small_model(cfg).train()
    return model, model(list(items) or [make_item(96, 128)])


@pytest.mark.parametrize("masks", ["all", "foreground"])
def test_all_terms_of_formulas_2_and_3_train_the_student(transfer_cfg, storage, masks):
    transfer_cfg.MODEL.TRANSFER.MASKS = masks
    model, losses = train_step(transfer_cfg, make_item(96, 128), make_item(70, 50, seed=1))
    assert transfer_losses(losses).keys() == TERMS
    assert all(v > 0 and v.requires_grad for v in transfer_losses(losses).values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("masks", ["all", "foreground"])
def test_objects_without_a_mask_leave_the_same_terms(transfer_cfg, storage, masks):
    transfer_cfg.MODEL.TRANSFER.MASKS = masks
    item = make_item(96, 128)
    item["instances"].gt_has_mask = torch.tensor([False, True])
    _, losses = train_step(transfer_cfg, item)
    assert transfer_losses(losses).keys() == TERMS
    assert all(value.isfinite() for value in losses.values())


def test_switches_and_weights_choose_the_terms(transfer_cfg, storage):
    transfer_cfg.MODEL.TRANSFER.OUTPUTS.ENABLED = False
    assert transfer_losses(train_step(transfer_cfg)[1]).keys() == {"features"}
    transfer_cfg.MODEL.TRANSFER.OUTPUTS.ENABLED = True
    transfer_cfg.MODEL.TRANSFER.FEATURES.ENABLED = False
    transfer_cfg.MODEL.TRANSFER.OUTPUTS.MASK = 0.0
    assert transfer_losses(train_step(transfer_cfg)[1]).keys() == TERMS - {"features", "mask"}


def test_lambda_scales_every_transfer_loss_and_no_task_loss(transfer_cfg, storage):
    torch.manual_seed(1)
    once = train_step(transfer_cfg)[1]
    transfer_cfg.MODEL.TRANSFER.WEIGHT = 5.0
    fivefold = train_step(transfer_cfg)[1]
    for name, value in once.items():
        factor = 5 if "transfer" in name else 1
        assert torch.allclose(fivefold[name], factor * value, rtol=1e-4), name


def test_classes_of_sigmoids_are_compared_as_they_are_predicted(
    transfer_cfg, teacher_files, storage
):
    """The background's output, which a sigmoid head leaves out, has no share in the loss."""
    path, _ = teacher_files
    path.write_text(path.read_text().replace("USE_SIGMOID_CE: false", "USE_SIGMOID_CE: true"))
    transfer_cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    transfer_cfg.MODEL.TRANSFER.TASK_WEIGHT = 0.0
    model, losses = train_step(transfer_cfg)
    losses["loss_transfer_class"].backward()
    gradient = model.roi_heads.box_predictor.cls_score.weight.grad
    assert gradient[:-1].abs().sum() > 0 and gradient[-1].abs().sum() == 0


@pytest.mark.parametrize("heads", ["student", "teacher"])
def test_a_student_equal_to_its_teacher_has_no_transfer_loss(teacher_files, storage, heads):
    path, weights = teacher_files
    cfg = small_cfg(
        "reconstruction",
        *("MODEL.META_ARCHITECTURE", "TransferRCNN", "INPUT.DOMAIN", "image"),
        *("MODEL.TEACHER.CONFIG_FILE", str(path), "MODEL.TEACHER.WEIGHTS", str(weights)),
        *("MODEL.TRANSFER.HEADS", heads, *PIXEL),
    )
    model = small_model(cfg)
    SafeCheckpointer(model).load(str(weights))
    model.train()
    for module in model.modules():  # batch statistics would make the student differ
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    losses = transfer_losses(model([make_item(96, 128), make_item(70, 90, seed=1)]))
    assert losses.keys() == TERMS
    assert max(float(v) for v in losses.values()) < 1e-5


class Watched(DetectorTransfer):
    """Keeps what the student gave."""

    def __call__(self, student, *arguments):
        self.student = student
        return super().__call__(student, *arguments)


@pytest.mark.parametrize("heads", ["student", "teacher"])
def test_the_anchors_that_the_task_samples_can_be_compared_alone(transfer_cfg, storage, heads):
    transfer_cfg.MODEL.TRANSFER.ANCHORS = "sampled"
    model = small_model(transfer_cfg).train()
    assert model._transfer.anchors == "sampled"
    model._transfer = transfer = Watched(anchors="sampled", heads=heads)
    losses = transfer_losses(model([make_item(96, 128), make_item(70, 50, seed=1)]))
    assert losses["objectness"] > 0 and losses["anchor_deltas"] > 0
    sampled = sum(mask.flatten(1).sum(1) for mask in transfer.student.sampled_anchors.values())
    assert sampled.tolist() == [transfer_cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE] * 2


@pytest.mark.parametrize("masks", ["all", "foreground"])
def test_through_the_teachers_heads_only_features_learn_from_the_teacher(
    transfer_cfg, storage, masks
):
    transfer_cfg.MODEL.TRANSFER.HEADS = "teacher"
    transfer_cfg.MODEL.TRANSFER.MASKS = masks
    model, losses = train_step(transfer_cfg)
    learned = transfer_losses(losses)
    assert learned.keys() == TERMS and all(value > 0 for value in learned.values())
    outputs = [value for name, value in learned.items() if name != "features"]
    sum(outputs).backward()
    assert all(p.grad is None for p in model.roi_heads.parameters())
    assert all(p.grad is None for p in model.proposal_generator.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())


def test_heads_of_a_teacher_need_its_levels(transfer_cfg, storage):
    transfer_cfg.MODEL.TRANSFER.HEADS = "teacher"
    levels = ["p3", "p4", "p5", "p6"]
    transfer_cfg.MODEL.RPN.IN_FEATURES = transfer_cfg.MODEL.ROI_HEADS.IN_FEATURES = levels
    transfer_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    transfer_cfg.MODEL.ROI_HEADS.IN_FEATURES = levels[:3]
    transfer_cfg.MODEL.ANCHOR_GENERATOR.SIZES = transfer_cfg.MODEL.ANCHOR_GENERATOR.SIZES[1:]
    with pytest.raises(ValueError, match="p2"):
        train_step(transfer_cfg)


@pytest.mark.parametrize("size", [(33, 65), (64, 64), (97, 47), (130, 100)])
def test_pyramids_of_student_and_teacher_match_for_any_size(transfer_cfg, storage, size):
    _, losses = train_step(transfer_cfg, make_item(*size, boxes=((2, 2, 30, 30),)))
    assert losses["loss_transfer_features"].isfinite()


def test_heads_of_the_student_run_once(transfer_cfg, storage):
    model = small_model(transfer_cfg).train()
    heads = {
        "backbone": model.backbone,
        "rpn": model.proposal_generator.rpn_head,
        "box": model.roi_heads.box_predictor,
        "mask": model.roi_heads.mask_head.predictor,
    }
    calls = dict.fromkeys(heads, 0)
    rows = []

    def count(name):
        def hook(module, inputs, output):
            calls[name] += 1
            if name == "mask":
                rows.append(len(output))

        return hook

    for name, head in heads.items():
        head.register_forward_hook(count(name))
    model([make_item(96, 128)])
    assert calls == {"backbone": 1, "rpn": 1, "box": 1, "mask": 1}  # foreground masks only
    model._transfer.masks, calls["mask"] = "all", 0
    rows.clear()
    model([make_item(96, 128)])
    sampled = storage.latest()["roi_head/num_fg_samples"][0]
    sampled += storage.latest()["roi_head/num_bg_samples"][0]
    assert sum(rows) == sampled  # every sampled proposal once


def test_no_gradient_and_no_state_reaches_the_teacher(transfer_cfg, storage):
    model, losses = train_step(transfer_cfg)
    sum(losses.values()).backward()
    teacher = model.teacher
    model.train()
    assert not any(m.training for m in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    parameters = {id(p) for p in model.parameters()}
    assert not parameters & {id(p) for p in teacher.parameters()}
    plain = small_model(small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN"))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_a_students_checkpoint_loads_and_runs_without_the_teacher(
    transfer_cfg, teacher_files, storage, tmp_path
):
    model, _ = train_step(transfer_cfg)
    SafeCheckpointer(model, str(tmp_path)).save("student")
    for path in teacher_files:
        path.unlink()
    again = small_model(transfer_cfg).eval()
    SafeCheckpointer(again).load(str(tmp_path / "student.pth"))
    item = make_item(64, 64)
    first, second = model.eval()([item])[0], again([item])[0]
    assert torch.equal(first["instances"].scores, second["instances"].scores)


def test_the_teacher_sees_what_it_sees_alone(transfer_cfg, storage):
    model, _ = train_step(transfer_cfg)
    item, swapped = make_item(96, 128), make_item(96, 128)
    swapped["image"] = item["image"].flip(0)
    alone = model.teacher.preprocess_image([item]).tensor
    for order, sample in (("BGR", item), ("RGB", swapped)):
        model.coded_input = replace(model.coded_input, channel_order=order)
        images = model.preprocess_image(model.encode([sample]))
        assert torch.equal(model.teacher_batch(model.teacher, [sample], images), alone)


def test_images_without_annotations_train(transfer_cfg, storage):
    _, losses = train_step(transfer_cfg, make_item(64, 64, boxes=()))
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "with CascadeROIHeads"),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "TRAIN_ON_PRED_BOXES False"),
    ],
)
def test_heads_that_cannot_be_compared_are_rejected(transfer_cfg, key, value, message):
    transfer_cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True  # Cascade R-CNN asks for it
    transfer_cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        small_model(transfer_cfg)


def test_lambda_zero_asks_no_teacher(transfer_cfg, teacher_files, storage):
    transfer_cfg.MODEL.TRANSFER.WEIGHT = 0.0
    teacher_files[0].unlink()
    model, losses = train_step(transfer_cfg)
    model.prepare_teacher()
    assert not transfer_losses(losses)


def test_diverged_weights_stop_training_with_a_clear_error(transfer_cfg, storage):
    model = small_model(transfer_cfg).train()
    with torch.no_grad():
        model.proposal_generator.rpn_head.anchor_deltas.weight[:] = float("nan")
    with pytest.raises(FloatingPointError, match="diverged"):
        model([make_item(64, 64)])


def test_the_teacher_needs_an_image(transfer_cfg, storage):
    model, item = small_model(transfer_cfg).train(), make_item(64, 64)
    encoded = model.encode([item])[0]
    del encoded["image"]
    with pytest.raises(ValueError, match="the teacher reads images"):
        model([encoded])


@pytest.mark.parametrize("size", [(100, 64), (63, 64)])
def test_teacher_and_student_must_see_one_geometry(transfer_cfg, storage, size):
    model, item = small_model(transfer_cfg).train(), make_item(64, 64)
    encoded = model.encode([item])[0] | {"image": make_item(*size)["image"]}
    with pytest.raises(ValueError, match="same geometry"):
        model([encoded])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.TEACHER.CONFIG_FILE", "", "give MODEL.TEACHER.CONFIG_FILE"),
        ("MODEL.TEACHER.CONFIG_FILE", "nowhere.yaml", r"nowhere\.yaml"),
        ("MODEL.TEACHER.WEIGHTS", "nowhere.pth", r"nowhere\.pth.*MODEL\.TEACHER\.WEIGHTS"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3, r"NUM_CLASSES is 3 for the student but 2"),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True, r"USE_SIGMOID_CE is True for the student but"),
        ("MODEL.TRANSFER.DISTANCE", "cosine", "distance 'cosine'"),
        ("MODEL.TRANSFER.MASKS", "some", "masks 'some'"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(transfer_cfg, storage, key, value, message):
    transfer_cfg.merge_from_list([key, value])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_step(transfer_cfg)


def test_incomplete_teacher_weights_are_rejected(transfer_cfg, teacher_files, storage):
    _, weights = teacher_files
    state = torch.load(weights, weights_only=True)
    del state["model"]["roi_heads.box_predictor.cls_score.bias"]
    torch.save(state, weights)
    with pytest.raises(ValueError, match=r"roi_heads\.box_predictor\.cls_score\.bias"):
        train_step(transfer_cfg)


def test_a_lazy_config_teaches(transfer_cfg, teacher_files, storage, tmp_path):
    """Detectron2's new baselines are Python files; this one is of the small teacher."""
    path, weights = teacher_files
    (tmp_path / "teacher.py").write_text(f"""
from detectron2.config import LazyCall
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from cdl_d2.d2.config_files import read_config

def built(path):
    return build_model(read_config(path))

model = LazyCall(built)(path={str(path)!r})
train = OmegaConf.create({{"init_checkpoint": {str(weights)!r}}})
""")
    small_model(transfer_cfg)  # loads the codec, which draws random numbers the first time
    expected = transfer_losses(train_step(transfer_cfg)[1])
    transfer_cfg.MODEL.TEACHER.CONFIG_FILE = str(tmp_path / "teacher.py")
    transfer_cfg.MODEL.TEACHER.WEIGHTS = ""
    with pytest.raises(CdlError, match="command line"):  # a config may not choose a program
        train_step(transfer_cfg)
    trust_program(tmp_path / "teacher.py")
    losses = transfer_losses(train_step(transfer_cfg)[1])
    assert losses.keys() == expected.keys()
    unsampled = "features", "objectness", "anchor_deltas"
    assert all(torch.isclose(losses[name], expected[name]) for name in unsampled)


@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN_400ep_LSJ", "mask_rcnn_R_101_FPN_100ep_LSJ"])
def test_the_standard_student_can_be_compared_with_detectron2s_new_baselines(name):
    lazy = LazyConfig.load(str(DETECTRON2_ZOO / "new_baselines" / f"{name}.py"))
    options = ["MODEL.CODEC.WEIGHTS", "untrained", "MODEL.DEVICE", "cpu"]
    cfg = read_config("detection/bridge_mask_rcnn_R50_FPN.yaml", options)
    check_detectors(build_model(cfg), instantiate(lazy.model), DetectorTransfer())
