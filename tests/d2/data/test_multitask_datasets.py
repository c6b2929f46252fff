import pytest
from PIL import Image

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.data.label_datasets import check_label_dataset
from cdl_d2.d2.data.multitask_datasets import check_multitask_dataset
from cdl_d2.d2.engine.run_config import RunConfig
from cdl_d2.d2.tasks import check_datasets
from cdl_d2.data.datasets.synthetic import SHAPES, write_multitask
from tests.d2.modeling.test_segmentor import FOLDER

CONFIG = FOLDER / "pixel_deeplab_small.yaml"
FITS = [
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6, "MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES", 5),
    *("DATASETS.TRAIN", "('drawn',)", "DATASETS.TEST", "('drawn',)"),
]


@pytest.fixture
def folder(tmp_path):
    list(write_multitask(tmp_path, 3, (48, 64)))
    return tmp_path


@pytest.fixture
def register():
    """Makes a folder known under a name."""
    names = set(DatasetCatalog.list())

    def register(folder, name="drawn"):
        files = folder / "images", folder / "labels", folder / "attributes.csv"
        RunConfig(CONFIG, datasets={"register_multitask": [(name, *map(str, files))]}).load()
        return name

    yield register
    for name in set(DatasetCatalog.list()) - names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_records_have_label_maps_and_the_attributes_that_these_show(folder, register):
    records = DatasetCatalog.get(register(folder))
    metadata = MetadataCatalog.get("drawn")
    assert len(records) == 3 and metadata.attributes == list(SHAPES)
    assert metadata.stuff_classes == ["background", *SHAPES]
    for record in records:
        labels = set(Image.open(record["sem_seg_file_name"]).tobytes())
        assert record["attributes"] == [int(kind + 1 in labels) for kind in range(5)]
    check_multitask_dataset(read_config(CONFIG, FITS), "drawn")


def test_decoded_copies_of_the_images_go_with_the_same_files(folder, register):
    for path in (folder / "images").iterdir():
        Image.open(path).save(path.with_suffix(".webp"))
        path.unlink()
    assert len(DatasetCatalog.get(register(folder))) == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ATTRIBUTE_HEAD.NUM_ATTRIBUTES", 4),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 0),
    ],
)
def test_heads_of_another_size_are_named(folder, register, key, value):
    register(folder)
    with pytest.raises(ValueError, match=key):
        check_multitask_dataset(read_config(CONFIG, [*FITS, key, value]), "drawn")


def test_data_of_one_task_is_refused_by_several_and_the_other_way_round(folder, register):
    cfg = read_config(CONFIG, [*FITS, "DATASETS.TEST", "('labels',)"])
    labels = "labels", str(folder / "images"), str(folder / "labels")
    RunConfig(CONFIG, datasets={"register_labels": [labels]}).load()
    with pytest.raises(ValueError, match="--register-multitask labels"):
        check_multitask_dataset(cfg, "labels")
    with pytest.raises(ValueError, match="--register-labels drawn"):
        check_label_dataset(cfg, register(folder))


@pytest.mark.parametrize(
    ("names", "flip", "warns"),
    [
        (["skin", "l_eye", "r_eye"], "horizontal", True),
        (["Right shoe", "Left shoe", "skin"], "horizontal", True),
        (["skin", "l_eye", "r_eye"], "none", False),
        (["left", "skin", "brightness"], "horizontal", False),
    ],
)
def test_mirrored_images_of_classes_with_a_side_warn(folder, register, caplog, names, flip, warns):
    vars(MetadataCatalog.get(register(folder)))["stuff_classes"] = [*names, "a", "b", "c"]
    overrides = [*FITS, "INPUT.RANDOM_FLIP", flip]
    architecture = ["MODEL.META_ARCHITECTURE", "CompressedMultitask"]
    check_datasets(read_config(CONFIG, [*overrides, *architecture]))
    assert ("RANDOM_FLIP" in caplog.text) == warns


def test_columns_in_another_order_are_named(folder, register, tmp_path):
    register(folder)
    table = folder / "attributes.csv"
    header, rows = table.read_text().split("\n", 1)
    table.write_text(header.replace("disc,square", "square,disc") + "\n" + rows)
    register(folder, "other")
    cfg = read_config(CONFIG, [*FITS, "DATASETS.TEST", "('other',)"])
    with pytest.raises(ValueError, match="drawn and other have different attributes"):
        check_multitask_dataset(cfg, "drawn")


@pytest.mark.parametrize("case", ["row", "image", "label", "size", "folder", "table"])
def test_what_is_missing_or_does_not_fit_is_named_before_training(folder, register, case):
    image, label = (sorted((folder / kind).iterdir())[0] for kind in ("images", "labels"))
    table = folder / "attributes.csv"
    if case == "row":
        table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    elif case == "image":
        image.unlink()
    elif case == "label":
        label.unlink()
    elif case == "size":
        Image.new("L", (48, 48)).save(label)
    elif case == "folder":
        (folder / "labels").rename(folder / "elsewhere")
    else:
        table.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match="data set drawn: "):
        register(folder)
    assert "drawn" not in DatasetCatalog.list()
