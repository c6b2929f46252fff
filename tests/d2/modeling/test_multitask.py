import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2.config_files import read_config
from cdl_d2.errors import CdlError
from tests.d2.conftest import CONFIGS
from tests.d2.modeling.test_segmentor import make_item as make_labelled
from tests.d2.modeling.test_segmentor import tiny_model

FOLDER = CONFIGS / "multitask" / "small"
TINY = [
    *("MODEL.LATENT_RESNET.WIDTH", 1 / 16, "MODEL.LATENT_RESNET.CONV4_BLOCKS", [1, 1, 1]),
    *("MODEL.LATENT_RESNET.CONV5_BLOCKS", 1, "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3, "MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES", 4),
    *("MODEL.LATENT_RESNET.NORM", "BN", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.FPN.NORM", "", "MODEL.SEM_SEG_HEAD.NORM", ""),
    *("MODEL.CODEC.NAME", "tiny-bmshj2018-hyperprior", "MODEL.CODEC.QUALITY", 2),
    *("MODEL.CODEC.WEIGHTS", ""),
]


def tiny_cfg(name, *options):
    return read_config(FOLDER / f"{name}_multitask_small.yaml", [*TINY, *options])


def make_item(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attributes = torch.randint(0, 2, (4,), generator=generator).tolist()
    return make_labelled(height, width, seed) | {"attributes": attributes}


@pytest.mark.parametrize("name", ["latent", "pixel"])
def test_all_tasks_learn_on_one_backbone_and_predict_in_pixels(name):
    model = tiny_model(tiny_cfg(name)).train()
    losses = model([make_item(96, 64), make_item(70, 90, seed=1)])
    assert losses.keys() == {"loss_attributes", "loss_parsing"}
    for task in losses:  # each reaches the backbone that both share
        model.zero_grad()
        losses[task].backward(retain_graph=True)
        grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
        assert any(grad.abs().sum() > 0 for grad in grads)
    item = make_item(97, 47) | {"height": 194, "width": 94}
    output = model.eval()([item])[0]
    assert output["sem_seg"].shape == (3, 194, 94)
    assert output["attributes"].shape == (4,)
    assert ((output["attributes"] >= 0) & (output["attributes"] <= 1)).all()
    assert ("bits" in output) == (name == "latent")


def test_predictions_do_not_depend_on_batch_mates():
    model = tiny_model(tiny_cfg("latent")).eval()
    items = [make_item(64, 96), make_item(64, 96, seed=1)]
    for item, output in zip(items, model(items), strict=True):
        alone = model([item])[0]
        for result in ("attributes", "sem_seg"):
            assert torch.allclose(alone[result], output[result], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("task, absent_key", [("attributes", "sem_seg"), ("parsing", "attributes")])
def test_any_subset_of_tasks_is_a_model(task, absent_key):
    only = ("MODEL.TASKS.NAMES", (task,), "MODEL.TASKS.WEIGHTS", (2.0,))
    model, item = tiny_model(tiny_cfg("latent", *only)), make_item(64, 64)
    del item[absent_key]
    both = tiny_model(tiny_cfg("latent")).train()
    assert model.train()([item]).keys() == {f"loss_{task}"}
    assert absent_key not in model.eval()([item])[0]
    count = [sum(p.numel() for p in m.parameters()) for m in (model, both)]
    assert count[0] < count[1]


@pytest.mark.parametrize(
    "options, key",
    [
        (("MODEL.TASKS.NAMES", ("attributes", "poses")), "poses"),
        (("MODEL.TASKS.WEIGHTS", (1.0,)), "WEIGHTS"),
        (("MODEL.TASKS.NAMES", ("parsing", "parsing")), "once"),
        (("MODEL.ATTRIBUTE_HEAD.IN_FEATURES", ["p9"]), "p9"),
        (("MODEL.TASKS.WEIGHTING", "kendall"), "kendall"),
    ],
)
def test_wrong_tasks_are_refused(options, key):
    with pytest.raises(CdlError, match=key):
        tiny_model(tiny_cfg("latent", *options))


@pytest.mark.parametrize("change", [{"attributes": [1, 0]}, {"sem_seg": torch.full((64, 64), 7)}])
def test_items_that_do_not_fit_are_refused(change):
    model = tiny_model(tiny_cfg("latent")).train()
    with pytest.raises(CdlError):
        model([make_item(64, 64) | change])
    lacks = {k: v for k, v in make_item(64, 64).items() if k not in change}
    with pytest.raises(CdlError, match=min(change)):
        model([lacks])
