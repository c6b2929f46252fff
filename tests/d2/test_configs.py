import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import get_cfg

from cdl_d2.bench.counts import count_multiply_adds, paper_giga
from cdl_d2.d2 import add_cdl_config
from tests.d2.conftest import CONFIGS

LEAVES = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base"))


def load(path):
    cfg = get_cfg()
    add_cdl_config(cfg)
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_every_config_loads_and_has_its_own_output_folder(path):
    cfg = load(path)
    assert f"./output/{path.stem}" == cfg.OUTPUT_DIR
    others = [load(other).OUTPUT_DIR for other in LEAVES if other != path]
    assert cfg.OUTPUT_DIR not in others


def test_the_main_config_has_the_papers_schedule():
    cfg = load(CONFIGS / "latent_mask_rcnn_R50_FPN.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (270000, (210000, 250000))
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, 0.02)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
    assert cfg.MODEL.TRANSFER.WEIGHT == 1.0


def test_the_main_model_has_the_multiply_adds_of_table_2():
    cfg = load(CONFIGS / "latent_mask_rcnn_R50_FPN.yaml")
    counts = count_multiply_adds(cfg, (800, 1280))
    giga = {part: count / 1e9 for part, count in counts.items()}
    assert giga["student_backbone"] == pytest.approx(155.25, rel=0.002)
    assert giga["teacher_backbone"] == pytest.approx(136.93, rel=0.002)
    assert giga["codec_decoder"] == pytest.approx(43.19, rel=0.002)
    assert paper_giga(cfg, "student_backbone", (800, 1280)) == 155.25


def test_the_1x1_stem_and_the_context_codec_have_their_multiply_adds():
    cfg = load(CONFIGS / "latent_mask_rcnn_R50_FPN_stem1x1.yaml")
    cfg.MODEL.CODEC.NAME = "mbt2018"
    counts = count_multiply_adds(cfg, (800, 1280))
    assert counts["student_backbone"] / 1e9 == pytest.approx(149.31, rel=0.002)
    assert counts["codec_decoder"] / 1e9 == pytest.approx(93.49, rel=0.002)


def test_the_transform_modules_are_counted_by_hand():
    cells, kernel = 8 * 16, 5 * 5  # each cell spreads over 4 pixels in either half
    halves = [cells * kernel * 192 * 192, 4 * cells * kernel * 192 * 256]
    gdn = 4 * cells * 192 * 192
    counts = [
        count_multiply_adds(load(CONFIGS / "segmentation" / f"{name}.yaml"), (128, 256))
        for name in ("latent_deeplab_v3_R50", "latent_deeplab_v3_R50_res")
    ]
    assert counts[0]["transform_module"] == sum(halves) + gdn
    assert counts[1]["transform_module"] > 5 * counts[0]["transform_module"]
    rest = [each["student_backbone"] - each["transform_module"] for each in counts]
    assert rest[0] == rest[1]


@pytest.mark.parametrize("size", [(0, 64), (64, 65), (-32, 32)])
def test_a_size_that_cannot_be_counted_is_named(size):
    cfg = load(CONFIGS / "latent_mask_rcnn_R50_FPN.yaml")
    with pytest.raises(ValueError, match="multiples of 32"):
        count_multiply_adds(cfg, size)


def test_classification_has_the_schedule_of_appendix_a3():
    cfg = load(CONFIGS / "classification" / "latent_resnet50.yaml")
    epoch = 1_281_167 / cfg.SOLVER.IMS_PER_BATCH
    assert cfg.SOLVER.IMS_PER_BATCH == 256 and cfg.SOLVER.BASE_LR == 0.1
    assert cfg.SOLVER.MAX_ITER / epoch == pytest.approx(100, rel=1e-3)
    assert [round(step / epoch) for step in cfg.SOLVER.STEPS] == [30, 60, 90]
    assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_NORM == 1e-4
