"""Detectron2's meta-architectures on latents, each by inheritance."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    ProposalNetwork,
    build_backbone,
)

from cdl_d2.d2 import CompressedDetector, SafeCheckpointer
from cdl_d2.errors import CdlError
from tests.d2.conftest import make_item, small_cfg, small_model

PANOPTIC = ["MODEL.META_ARCHITECTURE", "CompressedPanopticFPN"]
DENSE = [
    *("MODEL.RETINANET.NUM_CLASSES", 2, "MODEL.RETINANET.NUM_CONVS", 1),
    *("MODEL.RETINANET.NORM", "", "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
    *("MODEL.RETINANET.TOPK_CANDIDATES_TEST", 50),
]
KINDS = {
    "retinanet": ("latent_retinanet", DENSE),
    "fcos": ("latent_fcos", DENSE),
    "panoptic": ("latent_panoptic_fpn", PANOPTIC),
    "bridged_panoptic": ("bridge", PANOPTIC),
    "decoded_panoptic": ("reconstruction", PANOPTIC),
}


def detector(kind, *options):
    config, more = KINDS[kind]
    return small_model(small_cfg(config, *more, *options))


def make_panoptic_item(height, width, **kwargs):
    item = make_item(height, width, **kwargs)
    return item | {"sem_seg": item["instances"].gt_masks.tensor.any(0).long()}


def assert_same(first, second):
    for key in first.keys() & {"sem_seg"}:
        assert torch.allclose(first[key], second[key], atol=1e-4)
    first, second = first["instances"], second["instances"]
    assert len(first) == len(second) > 0
    assert torch.allclose(first.scores, second.scores, atol=1e-4)


@pytest.mark.parametrize("kind", [*KINDS])
def test_a_stock_batch_trains_every_parameter(kind, storage):
    options = ["MODEL.BRIDGE.ENTRY", "res2"] if kind == "bridged_panoptic" else []
    model = detector(kind, *options).train()
    losses = model([make_panoptic_item(96, 128), make_panoptic_item(80, 50, seed=1)])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", [*KINDS])
def test_batch_mates_do_not_change_what_is_found_and_the_rate_is_said(kind):
    model, small, large = detector(kind).eval(), make_item(70, 90), make_item(130, 200, seed=1)
    together = model([small, large, small])
    for item, output in zip((small, large, small), together, strict=True):
        assert_same(model([item])[0], output)
        assert output["bits"] > 0 and output["image_size"] == tuple(item["image"].shape[1:])


def test_a_pyramid_from_p3_makes_no_finer_features():
    backbone = detector("retinanet").backbone
    assert list(backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    assert list(backbone.bottom_up.output_shape()) == ["res3", "res4", "res5"]
    whole = small_model(small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN"))
    assert whole.backbone.bottom_up.pyramid.upsample4 is not None
    assert backbone.bottom_up.pyramid.upsample4 is None


def test_panoptic_results_come_raw_as_detectron2s_do():
    model, items = detector("panoptic").eval(), [make_item(70, 90), make_item(130, 200, seed=1)]
    instances, label_scores = model.inference(items, do_postprocess=False)
    assert [result.image_size for result in instances] == [(70, 90), (130, 200)]
    assert len(label_scores) == 2
    first, second = model.inference(items)
    assert {"panoptic_seg", "sem_seg", "instances", "bits"} <= first.keys()
    assert first["sem_seg"].shape == (2, 70, 90) and second["sem_seg"].shape == (2, 130, 200)


def test_masks_of_given_boxes_go_to_their_images():
    model = small_model(small_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedRCNN")).eval()
    items = [make_item(70, 90), make_item(130, 200, seed=1), make_item(70, 90, seed=2)]
    detections = model.inference(items, do_postprocess=False)
    for args in ((detections,), ()):
        named = {} if args else {"detected_instances": detections}
        again = model.inference(items, *args, do_postprocess=False, **named)
        assert all(
            torch.equal(a.pred_masks, b.pred_masks) for a, b in zip(detections, again, strict=True)
        )


def test_detectron2s_predictor_segments_panoptically(tmp_path):
    cfg = small_cfg("latent_panoptic_fpn", *PANOPTIC)
    SafeCheckpointer(small_model(cfg), str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    picture = make_item(60, 80)["image"].permute(1, 2, 0).numpy()
    labels, segments = DefaultPredictor(cfg)(picture)["panoptic_seg"]
    assert labels.shape == (60, 80) and set(labels.unique().tolist()) - {0} <= {
        segment["id"] for segment in segments
    }


def test_a_panoptic_student_is_taught(transfer_cfg, storage):
    cfg = small_cfg("latent_panoptic_fpn")
    cfg.MODEL.TEACHER = transfer_cfg.MODEL.TEACHER
    losses = small_model(cfg).train()([make_panoptic_item(96, 128)])
    assert {"loss_sem_seg", "loss_mask", "loss_transfer_features", "loss_transfer_mask"} <= {
        *losses
    }


def test_detectron2s_trainer_trains_panoptically(tmp_path):
    """The layout of its data sets `..._panoptic_separated`: instances, and label maps in files."""
    records = []
    for index in range(2):
        item = make_panoptic_item(64, 96, seed=index)
        image, labels = tmp_path / f"{index}.png", tmp_path / f"{index}_labels.png"
        write_png(image, item["image"].permute(1, 2, 0).numpy())
        write_png(labels, item["sem_seg"].numpy().astype(np.uint8))
        box = {"bbox": [8, 8, 32, 32], "bbox_mode": 1, "category_id": 0}
        box["segmentation"] = [[8, 8, 40, 8, 40, 40, 8, 40]]
        records.append(
            {
                **{"file_name": str(image), "sem_seg_file_name": str(labels), "image_id": index},
                **{"height": 64, "width": 96, "annotations": [box]},
            }
        )
    DatasetCatalog.register("tiny_panoptic", lambda: records)
    MetadataCatalog.get("tiny_panoptic").set(thing_classes=["a", "b"])
    cfg = small_cfg("latent_panoptic_fpn", *PANOPTIC, "SOLVER.MAX_ITER", 2)
    cfg.DATASETS.TRAIN, cfg.OUTPUT_DIR = ("tiny_panoptic",), str(tmp_path)
    trainer = DefaultTrainer(cfg)
    trainer.train()
    assert trainer.storage.latest()["loss_sem_seg"][0] > 0
    assert (tmp_path / "model_final.pth").exists()


def write_png(path, pixels):
    Image.fromarray(pixels).save(path)


@META_ARCH_REGISTRY.register()
class CountingRCNN(GeneralizedRCNN):
    """A user's meta-architecture, whose `inference` takes something of its own."""

    @configurable
    def __init__(self, *, most: int, **kwargs):
        super().__init__(**kwargs)
        self.most = most

    @classmethod
    def from_config(cls, cfg):
        return super().from_config(cfg) | {"most": 3}

    def inference(self, batched_inputs, *, most=None, do_postprocess=True):
        results = super().inference(batched_inputs, do_postprocess=False)
        results = [result[: most or self.most] for result in results]
        if not do_postprocess:
            return results
        return [{"instances": result, "most": self.most} for result in results]


@META_ARCH_REGISTRY.register()
class CompressedCountingRCNN(CompressedDetector, CountingRCNN):
    pass


def test_a_meta_architecture_of_ones_own_reads_latents_by_inheritance():
    options = ["MODEL.META_ARCHITECTURE", "CompressedCountingRCNN"]
    model, item = small_model(small_cfg("latent", *options)).eval(), make_item(64, 96)
    [output] = model([item])
    assert len(output["instances"]) == output["most"] == 3 and output["bits"] > 0
    [bare] = model.inference([item], most=5, do_postprocess=False)
    assert len(bare) == 5


@pytest.mark.parametrize(
    ("stock", "named", "unnamed"),
    [
        ("GeneralizedRCNN", ["CompressedRCNN", "TransferRCNN"], ["Panoptic", "Counting"]),
        ("PanopticFPN", ["CompressedPanopticFPN", "TransferPanopticFPN"], ["CompressedRCNN"]),
        ("RetinaNet", ["CompressedRetinaNet"], ["FCOS"]),
        ("SemanticSegmentor", ["CompressedSegmentor"], ["Detector"]),
        ("CountingRCNN", ["CompressedCountingRCNN"], ["CompressedRCNN"]),
        ("ProposalNetwork", ["CompressedDetector"], ["CompressedRCNN"]),
    ],
)
@pytest.mark.parametrize("kind", ["latent", "bridge"])
def test_a_stock_meta_architecture_on_latents_names_the_one_to_set(kind, stock, named, unnamed):
    with pytest.raises(CdlError) as caught:
        build_backbone(small_cfg(kind, "MODEL.META_ARCHITECTURE", stock))
    message = str(caught.value)
    assert "MODEL.META_ARCHITECTURE" in message and stock in message
    assert all(name in message for name in named)
    assert not any(name in message for name in unnamed)


def test_what_batches_images_elsewhere_is_refused():
    class CompressedProposals(CompressedDetector, ProposalNetwork):
        pass

    with pytest.raises(CdlError, match="preprocess_image"):
        CompressedProposals(small_cfg("latent", *PANOPTIC))
