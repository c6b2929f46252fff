"""What Detectron2's own tests ask of its backbones and exported detectors, asked of ours
(its tests/modeling/test_backbone.py and tests/test_export_torchscript.py)."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import detectron2.export.torchscript  # noqa: F401  patches Detectron2's layers
from detectron2.export import TracingAdapter
from detectron2.modeling import build_backbone

from tests.d2.conftest import make_item, small_cfg, small_model
from tests.d2.modeling.test_meta_architectures import DENSE

RCNN = ["MODEL.META_ARCHITECTURE", "CompressedRCNN"]

ALONE = ["MODEL.BRIDGE.BACKBONE", "build_resnet_backbone"]
FROM_P3 = [
    *("MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
]
BACKBONES = {
    "latent": ("latent", ["MODEL.BACKBONE.NAME", "build_latent_resnet_backbone"]),
    "latent_fpn": ("latent", ["MODEL.LATENT_RESNET.STEM", "residual"]),
    "latent_retinanet": ("latent_retinanet", []),
    "conv1_fpn": ("bridge", []),
    "stem_fpn": ("bridge", ["MODEL.BRIDGE.ENTRY", "stem"]),
    "res3": ("bridge", ["MODEL.BRIDGE.ENTRY", "res3", *FROM_P3, *ALONE]),
    "deconv_fpn": ("bridge", ["MODEL.BRIDGE.ENTRY", "res2", "MODEL.BRIDGE.KIND", "deconv"]),
    "res_fpn": ("bridge", ["MODEL.BRIDGE.ENTRY", "res2", "MODEL.BRIDGE.KIND", "res"]),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_scripted(name):
    config, options = BACKBONES[name]
    backbone = build_backbone(small_cfg(config, *options)).eval()
    scripted = torch.jit.script(backbone)
    latents = torch.rand(2, 192, 6, 8)
    expected, found = backbone(latents), scripted(latents)
    assert expected.keys() == found.keys() == backbone.output_shape().keys()
    assert all(torch.allclose(expected[key], found[key]) for key in expected)
    with pytest.raises(torch.jit.Error, match="19 channels"):
        scripted(torch.rand(1, 19, 6, 8))


def raw(model, items):
    return model.inference(items, do_postprocess=False)


def scaled(model, items):
    return [result["instances"] for result in model(items)]


@pytest.mark.parametrize(
    ("config", "options", "infer"),
    [
        ("latent", RCNN, raw),
        ("bridge", RCNN, scaled),
        ("reconstruction", RCNN, raw),
        ("latent_retinanet", DENSE, scaled),
    ],
)
def test_a_trace_fits_images_of_other_sizes(config, options, infer):
    model = small_model(small_cfg(config, *options)).eval()
    domain = model.coded_input.domain

    def item_of(height, width, seed=1):
        made = model.encode([{"image": make_item(height, width, seed=seed)["image"]}])[0]
        return {domain: made[domain], "image_size": torch.tensor(made["image_size"])}

    adapter = TracingAdapter(model, [item_of(96, 128, seed=0)], infer)
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    for size in ((70, 200), (130, 50)):
        item = item_of(*size)
        [expected] = infer(model, [item])
        [found] = adapter.outputs_schema(traced(item["image_size"], item[domain]))
        assert len(expected) == len(found) > 0
        assert torch.allclose(expected.pred_boxes.tensor, found.pred_boxes.tensor, atol=1e-3)
        assert torch.allclose(expected.scores, found.scores, atol=1e-5)
