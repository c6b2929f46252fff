"""Detectron2's model zoo, where setuptools has no `pkg_resources` any more."""

import sys

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig

from cdl_d2.d2.config_files import find_config, read_config
from cdl_d2.d2.detectron2_zoo import DETECTRON2_ZOO, import_model_zoo, zoo_weights
from cdl_d2.d2.modeling.teacher import find_weights, teacher_of
from cdl_d2.errors import CdlError
from tests.cli.test_convert import CODEC, save_run
from tests.commands import output_of
from tests.d2.conftest import small_cfg

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


@pytest.fixture(params=[True, False], ids=["without", "with"])
def pkg_resources(request, monkeypatch):
    """Whether that package can be imported; Detectron2's zoo has not been, yet."""
    pytest.importorskip("pkg_resources") if not request.param else None
    for name in ("detectron2.model_zoo", "detectron2.model_zoo.model_zoo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if request.param:
        monkeypatch.setitem(sys.modules, "pkg_resources", None)
    return sys.modules.get("pkg_resources")


def test_configs_and_weights_of_the_zoo_are_found(pkg_resources):
    file = find_config(MASK_RCNN)
    assert zoo_weights(file).endswith("mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl")
    assert find_weights(file, "") == zoo_weights(file)
    assert not zoo_weights(find_config("Base-RCNN-FPN.yaml"))
    assert import_model_zoo().get_config_file(MASK_RCNN) == str(DETECTRON2_ZOO / MASK_RCNN)
    assert sys.modules.get("pkg_resources") is pkg_resources  # as it was


def test_lazy_configs_load(pkg_resources, tmp_path):
    lazy = LazyConfig.load(str(find_config("lazy/latent_mask_rcnn_small.py")))
    assert lazy.optimizer.lr == 0.005
    (tmp_path / "teacher.py").write_text(
        "from detectron2.model_zoo import get_config\n"
        'model = get_config("common/models/retinanet.py").model\n'
    )
    with pytest.raises(ValueError, match="has no weights"):  # the file was run
        teacher_of(str(tmp_path / "teacher.py"))()


def test_a_lazy_config_is_no_yaml_config(tmp_path):
    lazy = find_config("lazy/latent_mask_rcnn_small.py")
    LazyConfig.save(LazyConfig.load(str(lazy)), str(tmp_path / "config.yaml"))
    for path in (lazy, tmp_path / "config.yaml"):
        with pytest.raises(CdlError, match=f"{path} is a LazyConfig"):
            read_config(path)


def test_a_model_is_converted(pkg_resources, coco_dataset, tmp_path):
    run, out = save_run(small_cfg("pixel"), tmp_path / "run"), tmp_path / "out"
    output_of("convert", run, coco_dataset[1], *CODEC, "--output", out)
    assert (out / "model_final.pth").is_file()
