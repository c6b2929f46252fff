"""Distillation of torchvision's detectors without labels."""

from dataclasses import replace

import pytest
import torch
from torchvision.io import write_png

from cdl_d2.conversion.blocks import Depths
from cdl_d2.conversion.distillation import STATE_FILE, Distillation, DistillationOptions
from cdl_d2.conversion.image_sets import distil_on_images
from cdl_d2.conversion.losses import feature_loss, output_loss
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.conversion.proposal_labels import LEAST_SCORE, WEIGHT
from cdl_d2.conversion.report import CONVERTED
from cdl_d2.conversion.sample_network import SampleNetwork
from cdl_d2.prediction.loading import load_model
from cdl_d2.tv.checkpoint import save_detector
from cdl_d2.tv.conversion import DetectorConversion, proposal_labels
from cdl_d2.tv.detector_config import EVALUATION_SIZES
from tests.tv.conftest import CLASSES, CODEC, make_item, tiny_config, tiny_detector

OPTIONS = DistillationOptions(iterations=2, batch_size=2, learning_rate=1e-3, patience=0)
PLAIN = Preprocessing((0, 0, 0), (1, 1, 1), multiples=(32, 32))


def images(*sizes):
    return [make_item(*size, seed=seed)["image"] for seed, size in enumerate(sizes)]


def pair(domain="latent", **changes):
    student, teacher = tiny_detector(domain, **changes), tiny_detector("image")
    state = {k: v for k, v in teacher.state_dict().items() if k in student.state_dict()}
    student.load_state_dict(
        {k: v for k, v in state.items() if v.shape == student.state_dict()[k].shape}, strict=False
    )
    return SampleNetwork(student, "RGB"), SampleNetwork(teacher, "RGB")


@pytest.mark.parametrize("entry", ["", "res3"])
def test_a_trained_detector_is_converted_and_is_a_model(entry, tmp_path):
    config, teacher = tiny_config("image"), tiny_detector("image")
    for name, parameter in teacher.named_parameters():
        if name.endswith("cls_score.bias"):
            parameter.data[1] += 4
    save_detector(tmp_path / "teacher.pth", config, teacher.state_dict())
    files = [tmp_path / f"{number}.png" for number in range(16)]
    for number, file in enumerate(files):
        write_png(make_item(64, 96, seed=number)["image"], str(file))
    arguments = (
        str(tmp_path / "teacher.pth"),
        files,
        CODEC,
        tmp_path / "out",
        replace(OPTIONS, iterations=1),
    )
    conversion = DetectorConversion(*arguments, entry=entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EVALUATION_SIZES, "small", (64, 96))
        result = conversion.run()
    assert 0 < result.explained <= 1 and len(result.history) == 2
    assert result.report.row(CONVERTED).agreement.keys() == {"AP", "mask_AP"}
    assert conversion.finished_report().difference == result.report.difference
    model = load_model(tmp_path / "out", "cpu")
    assert model.class_names == CLASSES and model.coded_input.domain == "latent"


def test_the_proposal_network_of_a_student_without_p2_learns_from_detections():
    student, teacher = (network.network for network in pair(bridge="res3"))
    labels, samples = proposal_labels(student, teacher), [make_item(64, 96)]
    assert labels and not proposal_labels(teacher, teacher)
    with labels.recorded(), torch.no_grad():
        [detections] = teacher(samples)
        student(samples)
    boxes = detections["boxes"][detections["scores"] > LEAST_SCORE]
    assert len(boxes) and not any(module.training for module in student.modules())
    _, inputs, batch = student.prepare(samples)
    torch.manual_seed(0)
    with torch.no_grad():
        trained = student.rpn
        trained.training = True
        _, losses = trained(batch, student.backbone(inputs), [{"boxes": boxes}])
    assert float(labels.loss()) == pytest.approx(WEIGHT * float(sum(losses.values())), rel=1e-4)


@torch.no_grad()
def compare(student, teacher, batch):
    depths = Depths(teacher, lambda: teacher.run(batch[:1]))
    with depths.recorded(teacher) as expected:
        teacher.run(batch)
    with depths.recorded(student, expected) as record:
        student.run(batch)
    outputs = depths.outputs(record, {}), depths.outputs(expected, {})
    return depths, record, feature_loss(*map(depths.features, (record, expected))), outputs


def test_a_detector_that_is_equal_to_its_teacher_has_no_loss():
    teacher = pair()[1]
    depths, record, features, outputs = compare(teacher, teacher, images((64, 96), (96, 64)))
    assert features == 0 and output_loss(*outputs) == pytest.approx(0, abs=1e-6)
    assert {"network.backbone", "network.rpn.head"} <= depths.features(record).keys()
    assert len(outputs[0]["regions"]) == 2 and len(outputs[0]["objects"][0]) == 2


@pytest.mark.parametrize("entry", ["conv1", "res3"])
def test_heads_of_both_detectors_read_the_same_boxes(entry):
    student, teacher = pair(bridge=entry)
    _, record, features, outputs = compare(student, teacher, images((64, 96), (96, 64)))
    shapes = [[v.shape for r in side["regions"] for v in r.values()] for side in outputs]
    assert shapes[0] == shapes[1]
    assert [t.shape for t in outputs[0]["objects"][0]] == [
        t.shape for t in outputs[1]["objects"][0]
    ]
    assert features > 0 and output_loss(*outputs) > 0
    assert len(record["network.backbone"][0]) == {"conv1": 5, "res3": 4}[entry]


def test_every_head_gets_gradients():
    student, teacher = pair("reconstruction")
    options = replace(OPTIONS, adapt="all")
    run = Distillation(student, teacher, None, [images((64, 64))], options)
    torch.stack(run._losses(images((64, 96), (96, 64)))).sum().backward()
    assert all(p.grad is not None for p in student.parameters())


def save_images(folder, count=16):
    for number, image in enumerate(images(*[(64, 70)] * count)):
        write_png(image, str(folder / f"{number:02}.png"))
    return sorted(folder.iterdir())


def test_an_interrupted_distillation_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    files = save_images(tmp_path / "images")

    def distil(folder=None):
        student, teacher = pair(bridge="conv1")
        history = distil_on_images(student, teacher, PLAIN, files, OPTIONS, folder)
        return history, student.state_dict()

    history, expected = distil()
    step = Distillation._step

    def interrupted(self, optimizer, done):
        if self._iteration == 1:
            raise KeyboardInterrupt
        step(self, optimizer, done)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Distillation, "_step", interrupted)
        distil(tmp_path)
    assert (tmp_path / STATE_FILE).is_file()
    again, state = distil(tmp_path)
    assert again == history
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
