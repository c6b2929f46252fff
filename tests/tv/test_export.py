"""Exported graphs of torchvision's Mask R-CNN give what it gives."""

import json
import shutil

import pytest
import torch

from cdl_d2.export import write_graphs
from cdl_d2.export.formats import load
from cdl_d2.nn import LatentInput, LatentPyramidTrunk, LatentResNet
from cdl_d2.tv.export import detector_graphs
from tests.export.client import find_objects
from tests.tv.conftest import make_item, shallow, tiny_detector


def test_a_detector_finds_the_same_with_all_graphs_in_place_of_its_parts(tmp_path):
    detector = shallow(tiny_detector()).eval()
    card = write_graphs(detector_graphs(detector, (50, 90)), "torch", tmp_path / "out")
    run = {name: load(tmp_path / "out" / g["file"]) for name, g in card["graphs"].items()}
    items = [make_item(50, 90), make_item(34, 77, seed=1)]  # of one size when padded
    with torch.no_grad():
        expected = detector(items)
        names, heads = list(detector.backbone(torch.zeros(1, 192, 2, 2))), detector.roi_heads
        detector.backbone.forward = lambda x: dict(zip(names, run["backbone"]([x]), strict=True))

        def rpn(levels):
            outputs = run["rpn"](levels)
            return list(outputs[: len(names)]), list(outputs[len(names) :])

        detector.rpn.head.forward = rpn
        heads.box_head.forward = heads.mask_head.forward = lambda pooled: pooled
        heads.box_predictor.forward = lambda pooled: tuple(run["box"]([pooled]))
        heads.mask_predictor.forward = lambda pooled: run["mask"]([pooled])[0]
        found = detector(items)
    for ours, theirs in zip(expected, found, strict=True):
        assert len(ours["boxes"]) > 0
        for name in ("boxes", "scores", "labels", "masks"):
            assert torch.allclose(ours[name], theirs[name], atol=1e-3), name


def test_the_card_of_a_detector_of_images_says_how_they_are_normalized():
    detector = tiny_detector("image").eval()
    made = detector_graphs(detector, (50, 90))
    assert made.card["codec"] is None
    assert made.fixed_size == (50, 90) and made.card["normalization"]["channel_order"] == "RGB"
    pixels = detector.prepare([make_item(50, 90)])[1]
    backbone = made.graphs[0]
    assert backbone.draw()[0].shape[1:] == pixels.shape[1:] == (3, 64, 96)
    with torch.no_grad():
        expected = detector.backbone(pixels).values()
    assert all(map(torch.equal, backbone.run([pixels]), expected))


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="there is no C++ compiler"
)
def test_a_compiled_backbone_gives_the_same():
    input_layer, blocks = LatentInput(8), {"conv4_blocks": (1, 1, 1), "conv5_blocks": 1}
    trunk = LatentResNet(input_layer, stem="conv1x1", width=1 / 64, **blocks)
    backbone = LatentPyramidTrunk(trunk).eval()
    latents = torch.randn(2, 8, 4, 6)
    with torch.no_grad():
        expected, given = backbone(latents), torch.compile(backbone)(latents)
    for level, feature in expected.items():
        assert (feature - given[level]).abs().max() <= 1e-4 * feature.abs().max()


@pytest.mark.parametrize("changes", [{}, {"bridge": "res3"}], ids=["from P2", "from P3"])
def test_the_card_says_all_that_finding_objects_needs(changes):
    detector = tiny_detector(**changes).eval()
    for weights in detector.roi_heads.box_predictor.cls_score.parameters():
        weights.data /= 50  # so that no two scores are 1, whose order would be chance
    made = detector_graphs(detector)
    card = json.loads(json.dumps(made.card))
    item = make_item(96, 128)
    with torch.no_grad():
        expected = detector([{"image": item["image"]}])[0]
        coded = detector.coded_input.encode({"image": item["image"]}, detector.device)
        shown = detector.prepare([coded])[1]
    graphs = {graph.name: graph for graph in made.graphs}
    boxes, scores, labels = find_objects(graphs, card, shown, (96, 128))
    assert len(boxes) > 1
    assert torch.allclose(boxes, expected["boxes"], atol=1e-2)
    assert torch.allclose(scores, expected["scores"], atol=1e-4)
    assert torch.equal(labels + 1, expected["labels"])


def test_a_detector_of_boxes_has_no_graph_of_masks():
    graphs = detector_graphs(tiny_detector(masks=False).eval())
    assert [graph.name for graph in graphs.graphs] == ["backbone", "rpn", "box"]
    assert "mask" not in json.dumps(graphs.card["post_processing"])
