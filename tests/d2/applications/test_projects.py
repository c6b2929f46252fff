"""Models of other projects are converted, run and trained as Detectron2's own."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import defaults
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from cdl_d2.d2 import CompressedDetector
from cdl_d2.d2.applications.scripts import set_up_project
from cdl_d2.errors import CdlError
from cdl_d2.prediction import Predictor
from tests.cli.test_convert import CODEC, save_run
from tests.commands import output_of, refused
from tests.d2.conftest import small_cfg

POINT_REND = [
    *("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.ROI_MASK_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.NUM_FC", 1, "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION", 7),
    *("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "", "MODEL.ROI_MASK_HEAD.IN_FEATURES", ["p2"]),
    *("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True),
    *("MODEL.POINT_HEAD.NUM_CLASSES", 2, "MODEL.POINT_HEAD.FC_DIM", 16),
    *("MODEL.POINT_HEAD.IN_FEATURES", ["p2"], "MODEL.POINT_HEAD.NUM_FC", 1),
    *("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 2, "MODEL.POINT_HEAD.TRAIN_NUM_POINTS", 16),
]


@pytest.fixture
def point_rend(monkeypatch):
    """PointRend's keys in the defaults, where DETECTRON2_ENV_MODULE puts them."""
    project = pytest.importorskip(
        "detectron2.projects.point_rend", reason="PointRend is not installed"
    )
    monkeypatch.setattr(defaults, "_C", defaults._C.clone())
    project.add_pointrend_config(defaults._C)


def test_point_rend_is_converted_run_and_trained(point_rend, coco_dataset, tmp_path):
    run, out = save_run(small_cfg("pixel", *POINT_REND), tmp_path / "run"), tmp_path / "out"
    annotations, images = coco_dataset
    output_of("convert", run, images, *CODEC, "--output", out)
    assert Predictor.load(out, "cpu")(images / "000.png").masks.shape[1:] == (96, 128)
    data = "--register", "data", annotations, images, "DATASETS.TRAIN", "('data',)"
    options = "SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", tmp_path / "trained"
    output_of("train", "--config-file", out / "config.yaml", *data, *options)
    assert (tmp_path / "trained" / "model_final.pth").is_file()


def test_a_project_that_is_not_found_is_named():
    with pytest.raises(CdlError, match=r"no_project.*PYTHONPATH"):
        set_up_project("no_project")


def test_a_meta_architecture_is_converted_if_it_has_one_on_latents(coco_dataset, tmp_path):
    class Mine(GeneralizedRCNN):
        """A project's own."""

    class CompressedMine(CompressedDetector, Mine):
        """The same on latents."""

    try:
        META_ARCH_REGISTRY.register(Mine)
        run = save_run(small_cfg("pixel", "MODEL.META_ARCHITECTURE", "Mine"), tmp_path / "run")
        words = "convert", run, coco_dataset[1], *CODEC, "--output", tmp_path / "out"
        assert "CompressedMine" in refused(*words)
        META_ARCH_REGISTRY.register(CompressedMine)
        output_of(*words)
        assert type(Predictor.load(tmp_path / "out", "cpu").model.network) is CompressedMine
    finally:
        for name in ("Mine", "CompressedMine"):
            META_ARCH_REGISTRY._obj_map.pop(name, None)
