"""Exported graphs of torchvision's Mask R-CNN give what it gives."""

import shutil

import pytest
import torch

from cdl_d2.export import write_graphs
from cdl_d2.export.formats import load
from cdl_d2.nn import LatentInput, LatentPyramidTrunk, LatentResNet
from cdl_d2.tv.compressed_mask_rcnn import read_detections
from cdl_d2.tv.export import detector_graphs
from tests.export.runtimes import run_whole
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


@pytest.mark.parametrize(
    "changes",
    [{}, {"bridge": "res3", "masks": False}, {"bridge": "conv1", "margin": True, "masks": False}],
    ids=["masks", "boxes behind a bridge", "boxes behind a bridge with a margin"],
)
def test_one_graph_finds_the_objects_of_the_model(changes, tmp_path):
    detector = tiny_detector(**changes).eval()
    if not changes:
        shallow(detector)
    for weights in detector.roi_heads.box_predictor.cls_score.parameters():
        weights.data /= 50  # so that no two scores are 1, whose order would be chance
    (graph,) = detector_graphs(detector).whole
    run = run_whole(graph, tmp_path)
    for image in (make_item(96, 128)["image"], make_item(70, 150, seed=1)["image"]):
        latent = detector.coded_input.encode({"image": image})["latent"][None]
        outputs = run([latent, torch.tensor(image.shape[1:])])
        with torch.no_grad():
            expected = read_detections(detector([{"image": image}])[0])
        assert len(outputs[0]) == len(expected["boxes"]) > 1
        assert torch.allclose(outputs[0], expected["boxes"], atol=1e-3)
        assert torch.allclose(outputs[1], expected["scores"], atol=1e-4)
        assert torch.equal(outputs[2], expected["labels"])
        if detector.has_masks:
            assert outputs[3].shape == (len(outputs[0]), 28, 28)


def test_a_detector_of_boxes_has_no_graph_of_masks():
    graphs = detector_graphs(tiny_detector(masks=False).eval())
    assert [graph.name for graph in graphs.graphs] == ["backbone", "rpn", "box"]
    assert [value.name for value in graphs.whole[0].outputs] == ["boxes", "scores", "classes"]
