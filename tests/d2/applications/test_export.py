"""Exported graphs of Detectron2's models give what the models give."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.applications.export import model_graphs
from cdl_d2.d2.config_files import read_config
from cdl_d2.export import write_graphs
from cdl_d2.export.formats import SUFFIXES, load, save, trace
from cdl_d2.prediction.loading import load_model
from tests.commands import output_of, refused
from tests.d2.conftest import CONFIGS, SMALL, make_item, small_cfg, small_model
from tests.d2.modeling import test_classifier as classifiers
from tests.d2.modeling import test_compressed_dense_detector as dense
from tests.d2.modeling import test_segmentor as segmentors
from tests.export.runtimes import run_whole

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


def need_onnx(file_format):
    for package in ("onnxruntime", "onnxscript") if file_format == "onnx" else ():
        pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def bridge():
    """A model, its card, its backbone's graph, and that as it was traced, once for all formats."""
    cfg = bridge_cfg()
    return traced(small_model(cfg).eval(), cfg)


@pytest.fixture(scope="module")
def segmentor():
    """The same of a segmentor."""
    few = "MODEL.LATENT_RESNET.CONV4_BLOCKS", [1, 1, 1], "MODEL.LATENT_RESNET.CONV5_BLOCKS", 1
    cfg = segmentors.tiny_cfg("latent_semantic_fpn_small", *segmentors.PLAIN, *few)
    return traced(segmentors.tiny_model(cfg).eval(), cfg)


@pytest.fixture(scope="module")
def classifier():
    """The same of a classifier, for images of one size."""
    cfg = classifiers.tiny_cfg("latent_resnet", "MODEL.META_ARCHITECTURE", "CompressedClassifier")
    return traced(classifiers.tiny_model(cfg).eval(), cfg, (64, 96))


def traced(model, cfg, size=None):
    graphs = model_graphs(model, cfg, size)
    return model, graphs.card, graphs.graphs[0], trace(graphs.graphs[0])


def runner(graph, program, file_format, folder):
    """What runs a traced graph, written and read."""
    need_onnx(file_format)
    path = folder / f"{graph.name}.{SUFFIXES[file_format]}"
    save(graph, program, path)
    return load(path)


@pytest.mark.parametrize(("kind", "file_format"), [("segmentor", "torch"), ("classifier", "onnx")])
def test_exported_logits_are_those_of_the_model(kind, file_format, tmp_path, request):
    _, _, graph, program = request.getfixturevalue(kind)
    run = runner(graph, program, file_format, tmp_path)
    for sizes in ({}, {"n": 1, "h": 5, "w": 4}):
        inputs = graph.draw(sizes)
        (expected,), (output,) = graph.run(inputs), run(inputs)
        assert (expected - output).abs().max() <= 1e-4 * expected.abs().max()


def test_a_bridge_rcnn_finds_the_same_with_the_exported_backbone(bridge, tmp_path):
    model, card, graph, program = bridge
    run = runner(graph, program, "torch", tmp_path)
    assert card["codec"] == vars(model.coded_input.codec.identity)
    assert card["strides"] == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    items = [make_item(70, 90), make_item(97, 130, seed=1)]  # odd sizes, padded
    expected, seen = model(items), []

    def exported(latents):
        seen.append(tuple(latents.shape[2:]))
        return dict(zip(card["strides"], run([latents]), strict=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.backbone, "forward", exported)
        predictions = model(items)
    multiple = card["multiple_of_positions"]
    assert seen == [(6, 6), (8, 10)] and all(side % multiple == 0 for side in seen[0])
    for reference, prediction in zip(expected, predictions, strict=True):
        for field in ("scores", "pred_classes"):
            same = getattr(reference["instances"], field), getattr(prediction["instances"], field)
            assert torch.allclose(*same, atol=1e-4)
    batch = torch.randn(2, 192, 6, 6)
    together = run([batch])
    alone = [run([each[None]]) for each in batch]
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
    assert any("anchors" in line for line in graphs.card["not_in_the_parts"])
    for graph in graphs.graphs[1:]:
        assert len(graph.run(graph.draw())) == len(graph.outputs)
    assert graphs.card["normalization"]["mean"] == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    assert graphs.card["normalization"]["channel_order"] == cfg.INPUT.FORMAT


@pytest.mark.parametrize("build", [dense.retinanet, dense.fcos])
def test_the_head_of_a_one_stage_detector_is_exported(build, tmp_path):
    model = build().eval()
    graphs = model_graphs(model, small_cfg("pixel", *dense.RETINANET))
    head = graphs.graphs[1]
    one_head = replace(graphs, graphs=(head,), fixed_size=(1, 1))
    card = write_graphs(one_head, "torch", tmp_path / "out")
    kinds = {output["name"].rpartition("_")[0] for output in card["graphs"]["head"]["outputs"]}
    assert {"class_logits", "box_deltas"} <= kinds
    assert ("centerness" in kinds) == (build is dense.fcos)


@pytest.mark.parametrize("name", ["latent_semantic_fpn_small", "pixel"])
def test_a_segmentors_logits_are_those_before_enlargement(name):
    cfg = segmentors.tiny_cfg(name, *segmentors.PLAIN)
    model = segmentors.tiny_model(cfg).eval()
    graphs = model_graphs(model, cfg, (70, 90) if name == "pixel" else None)
    assert graphs.fixed_size == ((70, 90) if name == "pixel" else None)
    (graph,) = graphs.graphs
    inputs = graph.draw()[0][:1]
    (logits,) = graph.run([inputs])
    enlarged = torch.nn.functional.interpolate(
        logits,
        scale_factor=graphs.card["strides"]["logits"],
        mode="bilinear",
        align_corners=False,
    )
    with torch.no_grad():
        expected = model.sem_seg_head(model.backbone(inputs))[0]
    assert torch.allclose(enlarged, expected, atol=1e-5)


def test_a_classifier_that_reads_scales_takes_them_too(tmp_path):
    cfg = classifiers.tiny_cfg("cresnet39")
    model = classifiers.tiny_model(cfg).eval()
    graphs = model_graphs(model, cfg)
    assert list(graphs.graphs[0].inputs) == ["y_hat", "scales"]
    assert "crop" in " ".join(graphs.card["not_in_the_parts"])
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
    changed = latent.clone()
    changed[:, 1] += 1
    assert all(map(torch.equal, graph.run([latent]), graph.run([changed])))


def test_the_command_writes_a_classifier_and_refuses_what_it_cannot(tmp_path):
    cfg = classifiers.tiny_cfg("latent_resnet", "MODEL.META_ARCHITECTURE", "CompressedClassifier")
    run, out = save_run(cfg, tmp_path / "run"), tmp_path / "out"
    printed = output_of("export", run, "--format", "torch", "--output", out)
    assert "backbone.pt2: differs by" in printed and len(printed.splitlines()) == 2
    card = json.loads((out / "card.json").read_text())
    assert card["classes"] == 3 and card["domain"] == "latent" and card["size"] == "any"
    assert {path.name for path in out.iterdir()} == {"backbone.pt2", "card.json"}
    assert "exists already" in refused("export", run, "--format", "torch", "--output", out)
    arguments = "--output", tmp_path / "other"
    assert "nowhere" in refused("export", tmp_path / "nowhere", *arguments)
    assert "model_final.pth" in refused("export", tmp_path, *arguments)
    assert "card.json" in refused("export", out / "card.json", *arguments)
    assert "at least 1" in refused("export", run, "--size", 0, 64, *arguments)
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
    graphs = load_model(save_run(cfg, tmp_path / "run"), "cpu").export_graphs((100, 130))
    shape = graphs.graphs[0].inputs["y_hat"]
    assert shape[2:] == (8, 10) and graphs.graphs[1].inputs["p6"][2:] == (2, 3)
    assert graphs.card["class_names"] == ["0", "1"]


def latent_model(*options):
    return small_model(small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN", *options))


def dense_model(architecture):
    options = "MODEL.META_ARCHITECTURE", architecture, *R18
    model = small_model(small_cfg("pixel", *dense.RETINANET, *options))
    model.head.cls_score.weight.data *= 100  # so that no two scores are equal
    model.head.bbox_pred.bias.data += 1  # so that boxes are not empty
    return model


def margin_model(entry):
    cfg = bridge_cfg()
    cfg.merge_from_list(["MODEL.BRIDGE.MARGIN", True, "MODEL.BRIDGE.ENTRY", entry])
    return small_model(cfg)


WHOLE = {
    "cascade with masks": lambda: latent_model(*HEADS["cascade"][0], *HEADS["cascade"][1]),
    "keypoints and a gate": lambda: latent_model(
        *("MODEL.KEYPOINT_ON", True, "MODEL.MASK_ON", False, "MODEL.SELECTION.KIND", "gate"),
        *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (16,)),
    ),
    "pixels": lambda: small_model(small_cfg("pixel", *R18)),
    "bridge that reads the margin": lambda: margin_model("conv1"),
    "bridge to a stage that reads the margin": lambda: margin_model("stem"),
    "retinanet": lambda: dense_model("CompressedRetinaNet"),
    "fcos": lambda: dense_model("CompressedFCOS"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_one_graph_finds_the_objects_of_the_model(kind, tmp_path):
    model = WHOLE[kind]().eval()
    exported = model_graphs(model, small_cfg("pixel"))
    assert list(exported.not_exported) == (["keypoints"] if "keypoints" in kind else [])
    (graph,) = exported.whole
    run = run_whole(graph, tmp_path)
    for image in (make_item(96, 128)["image"], make_item(70, 150, seed=1)["image"]):
        item = {"image": image}
        if kind == "pixels":
            inputs = (image - model.pixel_mean) / model.pixel_std
        else:
            inputs = model.coded_input.encode(item)["latent"]
        boxes, scores, classes, *masks = run([inputs[None], torch.tensor(image.shape[1:])])
        with torch.no_grad():
            expected = model([item])[0]["instances"]
        assert len(boxes) == len(expected) > 1
        assert torch.allclose(boxes, expected.pred_boxes.tensor, atol=1e-3)
        assert torch.allclose(scores, expected.scores, atol=1e-4)
        assert torch.equal(classes, expected.pred_classes)
        assert [mask.shape for mask in masks] == [(len(boxes), 28, 28)] * expected.has("pred_masks")


def test_a_detector_without_objects_is_no_error(tmp_path):
    cfg = small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    (graph,) = model_graphs(small_model(cfg).eval(), cfg).whole
    outputs = run_whole(graph, tmp_path)(graph.examples()[1])
    assert [len(values) for values in outputs] == [0, 0, 0, 0]
