"""Copies of a model: PyTorch's averages of weights, and a model saved whole."""

import copy
import io

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.codec import Codec
from cdl_d2.prediction.bitstreams import compress_for
from tests.d2.conftest import make_item, small_cfg, small_model
from tests.d2.modeling import test_classifier


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False), file.getbuffer().nbytes


def assert_same_detections(first, second, item):
    output, copied_output = (model.eval()([item])[0] for model in (first, second))
    assert torch.equal(output["instances"].scores, copied_output["instances"].scores)
    assert output["bits"] == copied_output["bits"]


def test_a_copy_shares_codec_and_teacher(transfer_cfg, storage):
    model, item = small_model(transfer_cfg).train(), make_item(64, 96)
    model([item])
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert copied.coded_input.codec is model.coded_input.codec
    pointers, copied_pointers = ({p.data_ptr() for p in m.parameters()} for m in (model, copied))
    assert not pointers & copied_pointers
    assert_same_detections(model, copied, item)
    assert any("transfer" in name for name in copied.train()([item]))


def test_pytorchs_moving_average_averages_the_student_alone(transfer_cfg, storage):
    model, item = small_model(transfer_cfg).train(), make_item(64, 96)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    before = average.module.backbone.fpn_output2.weight.clone()
    sum(model([item]).values()).backward()
    torch.optim.SGD(model.parameters(), 0.01).step()
    average.update_parameters(model)
    now = model.backbone.fpn_output2.weight
    assert torch.allclose(average.module.backbone.fpn_output2.weight, (before + now) / 2)
    assert average.module.teacher is model.teacher
    assert average.eval()([item])[0]["bits"] > 0


@pytest.mark.parametrize("kind", ["latent", "bridge", "reconstruction"])
def test_a_model_saved_whole_is_the_same(kind):
    options = ["MODEL.META_ARCHITECTURE", "CompressedRCNN"]
    model, item = small_model(small_cfg(kind, *options)).eval(), make_item(64, 96)
    stream = compress_for(model, item["image"]).base
    again, _ = saved_and_loaded(model)
    assert_same_detections(model, again, item)
    assert compress_for(again, item["image"]).base.to_bytes() == stream.to_bytes()


def test_a_student_saved_whole_learns_on_and_does_not_hold_its_teacher(transfer_cfg, storage):
    model, item = small_model(transfer_cfg).train(), make_item(64, 96)
    without = saved_and_loaded(model)[1]
    model([item])
    again, size = saved_and_loaded(model)
    assert_same_detections(model, again, item)
    teachers = 4 * sum(value.numel() for value in model.teacher.state_dict().values())
    assert size < without + teachers / 10
    assert any("transfer" in name for name in again.train()([item]))


def test_a_model_that_trains_its_codec_is_copied_and_saved_with_it():
    model = test_classifier.tiny_model(test_classifier.tiny_cfg("joint_classifier")).eval()
    [item] = test_classifier.make_items(1)
    for again in (copy.deepcopy(model), saved_and_loaded(model)[0]):
        with torch.no_grad():
            next(again.trained_codec.network.g_a.parameters()).mul_(1.1)
        again.train().eval()  # evaluation encodes with the present weights
        identity, copied_identity = (m.coded_input.codec.identity for m in (model, again))
        assert isinstance(again.coded_input.codec, Codec) and identity != copied_identity
        state = again.state_dict()
        test_classifier.tiny_model(test_classifier.tiny_cfg("joint_classifier")).load_state_dict(
            state
        )
        assert torch.isfinite(again([item])[0]["scores"]).all()
