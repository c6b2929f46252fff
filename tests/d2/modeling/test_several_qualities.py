"""A model that reads a codec at several qualities."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils.events import EventStorage

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.applications.export import model_graphs
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.data.store_mapper import open_store
from cdl_d2.d2.modeling.meta_arch.joint_codec import check_joint
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodecStamp
from cdl_d2.prediction.bitstreams import read_stream
from cdl_d2.seeds import seeded
from tests.d2.conftest import make_item as make_detector_item
from tests.d2.conftest import small_model
from tests.d2.modeling.test_bridged_backbone import bridge_cfg
from tests.d2.modeling.test_compressed_model import KINDS, answer, image_of, make_item, make_model

ALL = ["MODEL.CODEC.QUALITIES", [0, 1, 2]]


def qualities(items):
    return [item["codec_identity"].quality for item in items]


@pytest.mark.parametrize("kind", KINDS)
def test_training_draws_a_quality_an_image_and_evaluation_takes_the_one_of_the_config(kind):
    model, item = make_model(kind, *ALL), make_item(kind)
    with seeded(5):
        drawn = qualities(model.train().encode([item] * 6))
    with seeded(5):
        assert qualities(model.encode([item] * 6)) == drawn
    assert len({*drawn}) > 1
    with EventStorage():
        assert sum(model([item, item]).values()).isfinite()
    assert qualities(model.eval().encode([item] * 3)) == [2] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_reads_files_of_every_quality_as_it_reads_their_images(kind):
    model, item = make_model(kind, *ALL).eval(), make_item(kind)
    size = {key: item[key] for key in ("height", "width") if key in item}
    for codec in model.coded_input.codecs:
        options = [*ALL, "MODEL.CODEC.QUALITY", codec.identity.quality]
        alone = make_model(kind, *options).eval()
        read = read_stream(model, codec.compress(image_of(item, model))) | size
        with torch.no_grad():
            assert torch.equal(answer(model([read])[0]), answer(alone([item])[0]))


def test_a_checkpoint_is_evaluated_at_each_of_its_qualities_and_at_no_other(tmp_path):
    trained = ["MODEL.CODEC.QUALITIES", [1, 2]]
    SafeCheckpointer(make_model("detector", *trained), str(tmp_path)).save("model")
    weights = str(tmp_path / "model.pth")
    for options in ([*trained, "MODEL.CODEC.QUALITY", 1], ["MODEL.CODEC.QUALITY", 1]):
        model = make_model("detector", *options)
        load_all_weights(model, weights)
        stamps = [m.identities for m in model.modules() if isinstance(m, CodecStamp)]
        assert stamps == [model.coded_input.identities]
    for options in (["MODEL.CODEC.QUALITY", 0], ALL):
        with pytest.raises(ValueError, match=r"checkpoint reads .*quality 1.*quality 0"):
            load_all_weights(make_model("detector", *options), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.CODEC.QUALITIES", [0, 1]], "quality 2 is not one of"),
        (["MODEL.CODEC.QUALITIES", [2, 7]], "quality 7 is not one of"),
    ],
)
def test_qualities_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_model("detector", *options)


def test_where_several_qualities_cannot_be_they_are_refused():
    from tests.d2.conftest import small_cfg

    cfg = small_cfg("latent", *ALL, "INPUT.LATENT_STORE_TRAIN", "somewhere")
    with pytest.raises(ValueError, match="a latent store has one quality"):
        open_store(cfg, is_train=True)
    with pytest.raises(ValueError, match="one quality"):
        check_joint(cfg)


def patches(seed):
    """An item of patches of 16 pixels a side, which a codec keeps, unlike noise."""
    item = make_detector_item(160, 160, seed=seed)
    item["image"] = item["image"][:, ::16, ::16].repeat_interleave(16, 1).repeat_interleave(16, 2)
    return item


def test_a_bridge_reads_codecs_that_were_trained_apart(teacher_files, storage):
    cfg = bridge_cfg(teacher_files, "conv1", *ALL)
    model = small_model(cfg)
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    with pytest.raises(CdlError, match="image"):
        model.fit_bridge([{"latent": torch.zeros(192, 4, 4)}], 1)
    assert model.train().fit_bridge(map(patches, range(24)), 24) > 0.8
    item, coded_input = patches(100), model.coded_input
    encoded = [replace(coded_input, codec=c, others=()).encode(item) for c in coded_input.codecs]
    (target,) = (sample for sample in encoded if sample["codec_identity"].quality == 2)
    for sample, translated in zip(encoded, model.select_channels(encoded), strict=True):
        before = (sample["latent"] - target["latent"]).square().mean()
        after = (translated["latent"] - target["latent"]).square().mean()
        assert after < before / 2 or sample is target
        assert translated["codec_identity"] == sample["codec_identity"]
    assert sum(model([item]).values()).isfinite()
    state = model.state_dict()
    fresh = small_model(bridge_cfg(teacher_files, "conv1", *ALL, "MODEL.CODEC.QUALITY", 0)).eval()
    fresh.load_state_dict(state)
    for a, b in zip(
        fresh.select_channels(encoded), model.eval().select_channels(encoded), strict=True
    ):
        assert torch.equal(a["latent"], b["latent"])  # whichever quality evaluation encodes at
    with pytest.raises(CdlError, match="one quality"):
        model_graphs(fresh, cfg)


def test_one_codec_of_several_rates_needs_no_translation(teacher_files):
    rates = ["MODEL.CODEC.NAME", "bmshj2018-hyperprior-vbr", "MODEL.CODEC.WEIGHTS", "untrained"]
    cfg = bridge_cfg(teacher_files, "conv1", *rates, "MODEL.CODEC.QUALITIES", [1, 2])
    assert small_model(cfg).translation is None
