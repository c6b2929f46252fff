"""Names of classes outlive the conversion of a model whose config has none."""

import json

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from cdl_d2.codec import CodecChoice
from cdl_d2.d2.applications.backend import Detectron2Backend
from cdl_d2.d2.applications.convert import YamlConversion
from cdl_d2.d2.config_files import read_config
from cdl_d2.errors import CdlError
from tests.cli.test_convert import CODEC, save_run
from tests.commands import refused, run
from tests.d2.conftest import small_cfg


@pytest.fixture
def registered():
    """Names of data sets, which are forgotten after the test."""
    names = []
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def rgb_model(tmp_path):
    """The output folder of a detector of two classes of the data set `pairs`."""
    return save_run(small_cfg("pixel", "DATASETS.TRAIN", ("pairs",)), tmp_path / "rgb")


def converted_names(folder, *overrides):
    choice = CodecChoice("tiny-bmshj2018-hyperprior", 2)
    conversion = YamlConversion(
        folder / "config.yaml", (), choice, folder / "out", overrides=overrides
    )
    return conversion.latent_config().MODEL.CLASS_NAMES


def test_names_are_those_of_a_registered_data_set_that_fits(rgb_model, registered):
    assert converted_names(rgb_model) == []
    registered.append("pairs")
    DatasetCatalog.register("pairs", list)
    MetadataCatalog.get("pairs").set(thing_classes=["left", "right", "both"])
    assert converted_names(rgb_model) == []
    MetadataCatalog.remove("pairs")
    MetadataCatalog.get("pairs").set(thing_classes=["left", "right"])
    assert converted_names(rgb_model) == ["left", "right"]
    names = Detectron2Backend().class_names(read_config(rgb_model / "config.yaml"))
    assert names == ("left", "right")  # of the RGB model, too


def test_names_that_come_with_the_annotations_are_read(rgb_model, registered, coco_dataset):
    annotations, images = coco_dataset
    registered.append("pairs")
    register_coco_instances("pairs", {}, str(annotations), str(images))
    categories = json.loads(annotations.read_text())["categories"]
    assert sorted(converted_names(rgb_model)) == sorted(c["name"] for c in categories)


def test_names_that_are_given_count_before_others(rgb_model):
    words = "MODEL.CLASS_NAMES", "['a', 'b']"
    assert converted_names(rgb_model, *words) == ["a", "b"]
    with pytest.raises(CdlError, match="3 class names for a model of 2"):
        converted_names(rgb_model, "MODEL.CLASS_NAMES", "['a', 'b', 'c']")


def test_the_command_says_how_to_give_names_that_nobody_knows(rgb_model, coco_dataset, tmp_path):
    words = "convert", rgb_model, coco_dataset[1], *CODEC, "--output", tmp_path / "out"
    assert "2 class" in refused(*words, "--classes", "left")
    status, _, errors = run(*words)
    assert status == 0 and "--classes" in errors
