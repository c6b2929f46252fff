"""Exported graphs of Detectron2's models give what the models give."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.config import read_config
from cdl_d2.d2.engine.export import model_graphs
from cdl_d2.export import write_graphs
from cdl_d2.export.formats import load
from cdl_d2.prediction.exporting import graphs_of
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused
from tests.d2.conftest import CONFIGS, SMALL, make_item, small_cfg, small_model
from tests.d2.modeling import test_classifier as classifiers
from tests.d2.modeling import test_compressed_dense_detector as dense
from tests.d2.modeling import test_segmentor as segmentors

R18 = [  # few layers, so that they are traced fast
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
]


def bridge_cfg():
    cfg = read_config(CONFIGS / "detection" / "small" / "bridge_mask_rcnn_small.yaml")
    plain = "MODEL.META_ARCHITECTURE", "CompressedRCNN"
    cfg.merge_from_list([*SMALL, *R18, *plain, "DATASETS.TRAIN", (), "DATASETS.TEST", ()])
    return cfg


def save_run(cfg, folder):
    folder.mkdir()
    SafeCheckpointer(small_model(cfg), str(folder)).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def written(graphs, file_format, folder):
    """The card, and what runs each written graph."""
    if file_format == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    card = write_graphs(graphs, file_format, folder)
    return card, {name: load(folder / g["file"]) for name, g in card["graphs"].items()}


@pytest.mark.parametrize("file_format", ["torch", "onnx"])
def test_a_bridge_rcnn_finds_the_same_with_the_exported_backbone(file_format, tmp_path):
    cfg = bridge_cfg()
    model = small_model(cfg).eval()
    graphs = model_graphs(model, cfg)
    graphs = replace(graphs, graphs=graphs.graphs[:1])  # tests/tv has the heads too
    card, runners = written(graphs, file_format, tmp_path / "out")
    assert card["codec"] == vars(model.coded_input.codec.identity)
    assert card["strides"] == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    items = [make_item(70, 90), make_item(97, 130, seed=1)]  # odd sizes, padded
    expected, backbone, seen = model(items), model.backbone.forward, []

    def exported(latents):
        seen.append(tuple(latents.shape[2:]))
        return dict(zip(card["strides"], runners["backbone"]([latents]), strict=True))

    model.backbone.forward = exported
    found = model(items)
    assert seen == [(6, 6), (8, 10)] and all(s % card["multiple_of_cells"] == 0 for s in seen[0])
    for ours, theirs in zip(expected, found, strict=True):
        for field in ("scores", "pred_classes"):
            same = getattr(ours["instances"], field), getattr(theirs["instances"], field)
            assert torch.allclose(*same, atol=1e-4)
    model.backbone.forward = backbone
    batch = torch.randn(2, 192, 6, 6)
    together = runners["backbone"]([batch])
    alone = [runners["backbone"]([each[None]]) for each in batch]
    for level, levels in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.allclose(level, torch.cat(levels), atol=1e-4)


HEADS = {
    "cascade": (
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        ["backbone", "rpn", "box_1", "box_2", "box_3", "mask"],
    ),
    "standard": (("MODEL.MASK_ON", False), (), ["backbone", "rpn", "box"]),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_listed_with_what_stays_outside(name):
    first, second, expected = HEADS[name]
    cfg = small_cfg("pixel", *first, *second)
    graphs = model_graphs(small_model(cfg).eval(), cfg)
    assert [graph.name for graph in graphs.graphs] == expected
    assert any("anchors" in line for line in graphs.card["not_in_the_graphs"])
    for graph in graphs.graphs[1:]:
        assert len(graph.run(graph.draw())) == len(graph.outputs)
    assert graphs.card["normalization"]["mean"] == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert graphs.card["normalization"]["channel_order"] == cfg.INPUT.FORMAT


@pytest.mark.parametrize("build", [dense.retinanet, dense.fcos])
def test_the_head_of_a_one_stage_detector_is_exported(build, tmp_path):
    graphs = model_graphs(build().eval(), small_cfg("pixel", *dense.RETINANET))
    head = graphs.graphs[1]
    card, _ = written(replace(graphs, graphs=(head,), fixed_size=(1, 1)), "torch", tmp_path / "out")
    kinds = {output["name"].rpartition("_")[0] for output in card["graphs"]["head"]["outputs"]}
    assert {"class_logits", "box_deltas"} <= kinds
    assert ("centerness" in kinds) == (build is dense.fcos)


@pytest.mark.parametrize("name", ["latent_semantic_fpn_small", "pixel"])
def test_a_segmentors_logits_are_those_before_enlargement(name, tmp_path):
    cfg = segmentors.tiny_cfg(name, *segmentors.PLAIN)
    model = segmentors.tiny_model(cfg).eval()
    graphs = model_graphs(model, cfg, (70, 90) if name == "pixel" else None)
    assert graphs.fixed_size == ((70, 90) if name == "pixel" else None)
    (graph,) = graphs.graphs
    shown = graph.draw()[0][:1]
    (logits,) = graph.run([shown])
    enlarged = torch.nn.functional.interpolate(
        logits,
        scale_factor=graphs.card["strides"]["logits"],
        mode="bilinear",
        align_corners=False,
    )
    with torch.no_grad():
        expected = model.sem_seg_head(model.backbone(shown))[0]
    assert torch.allclose(enlarged, expected, atol=1e-5)
    if name != "pixel":
        _, runners = written(graphs, "torch", tmp_path / "out")
        assert torch.allclose(runners["backbone"]([shown])[0], logits, atol=1e-4)


def test_a_classifier_that_reads_scales_takes_them_too(tmp_path):
    cfg = classifiers.tiny_cfg("cresnet39")
    model = classifiers.tiny_model(cfg).eval()
    graphs = model_graphs(model, cfg)
    assert list(graphs.graphs[0].inputs) == ["y_hat", "scales"]
    assert "crop" in " ".join(graphs.card["not_in_the_graphs"])
    item = model.encode(classifiers.make_items(1))[0]
    latents = model._augmentation([item["latent"][None], item["scales"][None]], False)
    (logits,) = graphs.graphs[0].run(latents)
    assert torch.allclose(logits.softmax(1)[0], model([item])[0]["scores"], atol=1e-5)


def test_a_gate_is_a_graph_of_its_own_and_a_fixed_selection_is_inside():
    gate = ["MODEL.SELECTION.KIND", "gate"]
    cfg = small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN", *gate)
    model = small_model(cfg).eval()
    choose = next(g for g in model_graphs(model, cfg).graphs if g.name == "gate")
    (choice,) = choose.run(choose.draw())
    assert choice.shape == (2, model.coded_input.codec.latent_channels, 1, 1)
    fixed = ["MODEL.SELECTION.KIND", "fixed", "MODEL.SELECTION.CHANNELS", [0, 3]]
    cfg = small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN", *fixed)
    graph = model_graphs(small_model(cfg).eval(), cfg).graphs[0]
    (latent,) = graph.draw()
    other = latent.clone()
    other[:, 1] += 1
    assert all(map(torch.equal, graph.run([latent]), graph.run([other])))


def test_the_command_writes_a_classifier_and_refuses_what_it_cannot(tmp_path):
    cfg = classifiers.tiny_cfg("latent_resnet", "MODEL.META_ARCHITECTURE", "CompressedClassifier")
    run, out = save_run(cfg, tmp_path / "run"), tmp_path / "out"
    printed = output_of("export", run, "--format", "torch", "--output", out)
    assert "backbone.pt2: differs by" in printed and len(printed.splitlines()) == 2
    card = json.loads((out / "card.json").read_text())
    assert card["classes"] == 3 and card["domain"] == "latent" and card["size"] == "any"
    assert {path.name for path in out.iterdir()} == {"backbone.pt2", "card.json"}
    assert "exists already" in refused("export", run, "--format", "torch", "--output", out)
    other = "--output", tmp_path / "other"
    assert "nowhere" in refused("export", tmp_path / "nowhere", *other)
    assert "model_final.pth" in refused("export", tmp_path, *other)
    assert "card.json" in refused("export", out / "card.json", *other)
    assert "at least 1" in refused("export", run, "--size", 0, 64, *other)
    assert not (tmp_path / "other").exists()


def test_sizes_of_a_network_that_pads_by_them_are_fixed():
    pytest.importorskip("timm", reason="timm is not installed")
    options = "MODEL.CLASSIFIER.NETWORK", "timm/test_efficientnet", "MODEL.CLASSIFIER.WIDTH", 1.0
    cfg = classifiers.tiny_cfg("pixel_resnet", *options, "INPUT.IMAGE_SIZE", 96)
    model = classifiers.tiny_model(cfg).eval()
    assert model_graphs(model, cfg).fixed_size is None
    model.network.conv_stem = type("Conv2dSame", (torch.nn.Conv2d,), {})(3, 8, 3)
    assert model_graphs(model, cfg).fixed_size == (96, 96)


def test_a_run_is_read_from_its_folder(tmp_path):
    cfg = small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN")
    graphs = graphs_of(load_model(save_run(cfg, tmp_path / "run"), "cpu"), (100, 130))
    shape = graphs.graphs[0].inputs["y_hat"]
    assert shape[2:] == (8, 10) and graphs.graphs[1].inputs["p6"][2:] == (2, 3)
    assert graphs.card["class_names"] == ["0", "1"]
