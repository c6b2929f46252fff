import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.io import write_png

from cdl_d2.bench.conversion_page import (
    describe_saving,
    draw_example,
    draw_examples,
    write_curve,
    write_report,
)
from cdl_d2.codec import Codec
from cdl_d2.conversion.comparison import compare
from cdl_d2.conversion.convert import Conversion
from cdl_d2.conversion.distillation import DistillationOptions
from cdl_d2.conversion.image_network import DecodedNetwork, ImageNetwork
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.conversion.outputs import read_output
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.conversion.report import CONVERTED, DECODED, FINE_TUNED, NOT_TUNED, ORIGINALS, Report
from cdl_d2.metrics.agreement import (
    ClassAgreement,
    DetectionAgreement,
    LabelMapAgreement,
    interval,
    resample,
)

PREPROCESSING = Preprocessing((0, 0, 0), (1, 1, 1))
SIZE = (64, 64)


@pytest.fixture(scope="module")
def codec():
    return Codec.load("tiny-bmshj2018-hyperprior", 2)


def build_images(count, size=SIZE):
    torch.manual_seed(0)
    small = torch.rand(count, 3, 4, 4)
    return [(255 * F).byte() for F in nn.functional.interpolate(small, size, mode="bilinear")]


def build_classifier():
    torch.manual_seed(1)
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *head).eval()


def build_segmentor():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


class Boxes(nn.Module):
    """A box, in torchvision's form, whose side is the mean of a convolution's output."""

    def __init__(self, score):
        super().__init__()
        self.convolution, self.score = nn.Conv2d(3, 8, 3, 1, 1), score

    def forward(self, pixels):
        side = 20 + self.convolution(pixels).mean()
        box = torch.stack([side.new_tensor(4.0), side.new_tensor(4.0), side, side])
        labels, scores = torch.tensor([3]), torch.tensor([self.score])
        return [{"boxes": box[None], "labels": labels, "scores": scores}]


def compare_images(rgb, networks, images, codec):
    return compare(rgb, networks, images, lambda image: image, codec)


def compare_conversion(network, codec, images):
    rgb = ImageNetwork(network, PREPROCESSING)
    networks = {
        DECODED: DecodedNetwork(network, codec, PREPROCESSING),
        CONVERTED: LatentNetwork(network, codec, PREPROCESSING),
    }
    return compare_images(rgb, networks, images, codec), rgb, networks


class Pixels:
    """The RGB network in the place of a converted one, so that it agrees with itself."""

    def __init__(self, rgb, images):
        self.rgb, self.images, self.calls = rgb, images, -1  # warm-up first

    def __call__(self, latents):
        index = max(0, self.calls)
        self.calls += 1
        return self.rgb.run([self.images[index]])


@pytest.mark.parametrize(
    "network, kind",
    [(build_classifier(), "top1"), (build_segmentor(), "mIoU"), (Boxes(0.9), "AP")],
)
def test_a_network_agrees_with_itself_and_decoding_less_or_equally(network, kind, codec):
    images = build_images(5)
    rgb = ImageNetwork(network, PREPROCESSING)
    decoded = DecodedNetwork(network, codec, PREPROCESSING)
    report = compare_images(rgb, {DECODED: decoded, CONVERTED: Pixels(rgb, images)}, images, codec)
    assert report.kind == kind and report.images == 5
    assert [row.name for row in report.rows] == [ORIGINALS, DECODED, CONVERTED]
    assert report.row(ORIGINALS).agreement[kind] == report.row(CONVERTED).agreement[kind] == 100
    assert report.row(DECODED).agreement[kind] <= 100
    assert not report.decoding_agrees_more
    assert report.row(ORIGINALS).bits_per_pixel is None
    bits = [codec.encode(image.float() / 255).bits_per_pixel for image in images]
    assert report.row(CONVERTED).bits_per_pixel == pytest.approx(np.mean(bits))
    assert all(row.milliseconds > 0 for row in report.rows)
    for name in (DECODED, CONVERTED):
        low, high = report.row(name).intervals[kind]
        assert low <= report.row(name).agreement[kind] <= high + 1e-9


def test_an_unfitted_conversion_is_told_to_keep_decoding_and_a_page_shows_why(codec, tmp_path):
    images = build_images(12)
    report, rgb, networks = compare_conversion(build_segmentor(), codec, images)
    assert report.difference["mIoU"] < 0 and report.decoding_agrees_more
    assert "keep decoding" in report.summary()
    content = json.loads(report.save(tmp_path).read_text(encoding="utf-8"))
    assert content["rows"][2]["agreement"] == report.row(CONVERTED).agreement
    picture = draw_example("a<b", images[0], rgb, networks, codec)
    page = write_report(tmp_path, [report], [picture]).read_text(encoding="utf-8")
    assert page.count("<tr>") == 4 and page.count("<img") == 5 and "a&lt;b" in page
    assert "http" not in page  # no external resources


def test_the_last_network_is_the_candidate_and_equal_ones_show_no_difference(codec):
    network = build_classifier()
    decoded = DecodedNetwork(network, codec, PREPROCESSING)
    networks = {DECODED: decoded, CONVERTED: LatentNetwork(network, codec, PREPROCESSING)}
    networks[FINE_TUNED] = decoded
    rgb = ImageNetwork(network, PREPROCESSING)
    report = compare_images(rgb, networks, build_images(3), codec)
    assert report.candidate == FINE_TUNED and len(report.table()) == 4
    assert report.difference["top1"] == 0 and report.difference_intervals["top1"] == (0, 0)
    assert not report.decoding_agrees_more and "no difference" in report.summary()


def test_two_useless_ways_are_not_called_equal(codec):
    report, *_ = compare_conversion(build_segmentor(), codec, build_images(2))
    for agreement in (3.0, 80.0):
        rows = [replace(row, agreement={"mIoU": agreement}) for row in report.rows]
        interval = {"mIoU": (-1.0, 1.0)}
        equal = replace(report, rows=rows, difference={"mIoU": 0.0}, difference_intervals=interval)
        assert ("neither" in equal.summary().lower()) == (agreement == 3.0)


def test_a_conversion_compares_its_result_on_the_images_kept_aside(codec, tmp_path):
    for number, image in enumerate(build_images(16)):
        write_png(image, str(tmp_path / f"{number:02}.png"))
    conversion = Conversion(build_segmentor(), codec, tmp_path, PREPROCESSING)
    report = conversion.compare(conversion.to_latents(DistillationOptions(iterations=0)))
    assert report.images == len(conversion.kept_aside) and report.candidate == CONVERTED
    pictures = draw_examples(conversion)
    assert conversion.kept_aside[0].name in pictures[0] and pictures[0].count("<img") == 5
    conversion.compare(fine_tuned=conversion.compared[DECODED])
    assert conversion.report.candidate == NOT_TUNED  # it had no training


def test_the_page_of_several_qualities_has_a_curve(tmp_path):
    reports = []
    for quality in (0, 2):
        codec = Codec.load("tiny-bmshj2018-hyperprior", quality)
        reports.append(compare_conversion(build_classifier(), codec, build_images(3))[0])
    page = write_report(tmp_path, reports).read_text(encoding="utf-8")
    assert page.count("<table") == 2 and page.count("<img") == 1
    assert describe_saving(reports) in page.replace("&#x27;", "'")


def test_without_a_confident_detection_nothing_is_compared(codec, tmp_path):
    report, *_ = compare_conversion(Boxes(0.2), codec, build_images(2))
    assert report.objects == 0 and np.isnan(report.difference["AP"])
    assert not report.decoding_agrees_more
    assert "no detection" in report.summary() and report.table()[1]["ms/image"]
    assert "nan" not in describe_saving([report, report]) and write_curve(tmp_path, [report] * 2)
    assert json.loads(report.save(tmp_path).read_text(encoding="utf-8"))["difference"]["AP"] is None
    again = Report.load(tmp_path)
    assert again.summary() == report.summary() and again.table() == report.table()


def test_one_image_and_images_of_several_sizes_are_compared(codec):
    for images in (build_images(1), [*build_images(1), *build_images(1, (48, 80))]):
        report, *_ = compare_conversion(build_segmentor(), codec, images)
        assert report.images == len(images)
    with pytest.raises(ValueError, match="no image"):
        compare_conversion(build_segmentor(), codec, [])


def test_outputs_of_several_libraries_are_read_alike():
    logits, maps = torch.randn(1, 4), torch.randn(1, 4, 5, 6)
    assert torch.equal(read_output({"logits": logits}, (5, 6)).logits, logits[0])
    for output in (maps, {"out": maps, "aux": -maps}, (maps, -maps), [{"sem_seg": maps[0]}]):
        assert torch.equal(read_output(output, (5, 6)).label_map, maps[0].argmax(0))
    scores = logits[0].softmax(0)
    assert read_output([{"scores": scores}], (5, 6)).logits.softmax(0).allclose(scores)
    assert read_output(torch.tensor([[-1.0]]), (5, 6)).logits.argmax() == 0
    queries = {"pred_logits": torch.tensor([[[0.0, 9, 0], [0, 0, 9]]]), "pred_boxes": None}
    queries["pred_boxes"] = torch.tensor([[[0.5, 0.5, 0.5, 1.0], [0.1, 0.1, 0.1, 0.1]]])
    detections = read_output(queries, (10, 20)).detections
    assert detections["labels"][0] == 1 and detections["boxes"][0].tolist() == [5, 0, 15, 10]
    assert detections["scores"][0] > 0.9 > 0.1 > detections["scores"][1]
    assert read_output(torch.ones(1, 3, 5), (5, 6)).features.shape == (15,)
    with pytest.raises(ValueError, match="cannot be compared"):
        read_output({}, (5, 6))


def test_agreements_of_known_outputs():
    classes = ClassAgreement()
    for predicted in ([2.0, 1], [1.0, 2]):
        classes.add(torch.tensor([2.0, 1]), torch.tensor(predicted))
    assert classes.value() == 50 and classes.value(np.array([0, 0])) == 100
    assert classes.divergences[0] == 0 < classes.divergences[1]
    maps = LabelMapAgreement(3)
    maps.add(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]]))
    assert maps.value() == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), torch.tensor([0, 1])
    reference = {"boxes": boxes, "labels": labels, "scores": torch.tensor([0.9, 0.4])}
    detections = DetectionAgreement(0.5)
    detections.add(reference, reference, (50, 50))
    detections.add(reference, {k: v[1:] for k, v in reference.items()}, (50, 50))
    assert detections.object_count == 2
    assert detections.value(np.array([0, 0])) == 100 and detections.value(np.array([1, 1])) == 0
    assert 45 < detections.value() < 55
    samples = resample([detections, classes], 2)
    low, high = interval(samples[:, 0])
    assert low == 0 and high == 100
