"""Results of images that begin inside of a latent cell, for all tasks on Detectron2."""

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.errors import CdlError
from tests.d2.conftest import make_item, small_cfg, small_model
from tests.d2.modeling import test_multitask, test_segmentor
from tests.d2.modeling.test_compressed_dense_detector import fcos, retinanet
from tests.d2.modeling.test_meta_architectures import detector
from tests.nn.test_canvas import ORIGIN, SIZE, inner_and_whole, on_inner

PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedRCNN")


def mask_rcnn():
    return small_model(small_cfg("latent", *PLAIN))


def panoptic():
    return detector("panoptic")


def latent_retinanet():
    return detector("retinanet")


def latent_fcos():
    return detector("fcos")


def segmentor():
    cfg = test_segmentor.tiny_cfg("latent", "MODEL.META_ARCHITECTURE", "CompressedSegmentor")
    return test_segmentor.tiny_model(cfg)


def multitask():
    return test_segmentor.tiny_model(test_multitask.tiny_cfg("latent"))


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(
    "build", [mask_rcnn, panoptic, retinanet, fcos, latent_retinanet, latent_fcos]
)
@torch.no_grad()
def test_boxes_and_masks_are_in_pixels_of_the_image(build, scale):
    model = build().eval()
    inner, whole = inner_and_whole(model, make_item(*SIZE))
    height, width = (scale * side for side in inner["image_size"])
    output = model([inner | {"height": height, "width": width}])[0]
    found, expected = output["instances"], model([whole])[0]["instances"]
    boxes = on_inner(expected.pred_boxes.tensor, scale)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert found.image_size == (height, width) and kept.any()
    assert torch.allclose(found.pred_boxes.tensor, boxes[kept], atol=1e-2)
    assert output["image_size"] == inner["image_size"]
    if found.has("pred_masks"):
        assert found.pred_masks.shape == (len(found), height, width)
        if scale == 1:
            masks = expected.pred_masks[kept][..., ORIGIN[0] :, ORIGIN[1] :]
            assert torch.equal(found.pred_masks, masks)


@pytest.mark.parametrize("build", [segmentor, multitask, panoptic])
@torch.no_grad()
def test_label_maps_are_those_of_the_image(build):
    model = build().eval()
    inner, whole = inner_and_whole(model, make_item(*SIZE))
    found, expected = (model([item])[0]["sem_seg"] for item in (inner, whole))
    assert torch.equal(found, expected[:, ORIGIN[0] :, ORIGIN[1] :])


@torch.no_grad()
def test_panoptic_segments_are_those_of_the_image():
    model = panoptic().eval()
    model.combine_instances_score_thresh, model.combine_stuff_area_thresh = 0.0, 1
    inner, whole = inner_and_whole(model, make_item(*SIZE))
    output = model([inner])[0]
    segments, described = output["panoptic_seg"]
    expected, _ = model([whole])[0]["panoptic_seg"]
    assert torch.equal(segments, expected[ORIGIN[0] :, ORIGIN[1] :])
    assert {each["id"] for each in described} == set(segments.unique().tolist()) - {0}
    things = [each for each in described if each["isthing"]]
    assert things
    for each in described:
        shown = segments == each["id"]
        if each["isthing"]:
            assert output["instances"].pred_masks[each["instance_id"]][shown].all()
        else:
            assert each["area"] == shown.sum()


def test_training_refuses_what_it_cannot_undo(storage):
    model, item = mask_rcnn().train(), make_item(*SIZE)
    inner, _ = inner_and_whole(model, item)
    with pytest.raises(CdlError, match=r"begins at \(5, 9\)"):
        model([inner | {"instances": item["instances"]}])
