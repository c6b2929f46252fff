import json

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from cdl_d2.d2 import Trainer, build_mapper, check_datasets, register_dataset
from cdl_d2.d2.data.training_loader import TrainingLoader
from tests.d2.conftest import small_cfg


@pytest.fixture
def registered(coco_dataset):
    """Registers the data set, changed in some way, as `changed`."""

    def register(change):
        annotations, images = coco_dataset
        content = json.loads(annotations.read_text())
        change(content)
        annotations.write_text(json.dumps(content))
        register_dataset("changed", str(annotations), str(images))

    yield register
    DatasetCatalog.remove("changed")
    MetadataCatalog.remove("changed")


def test_masks_that_are_missing_are_named_before_training(registered):
    registered(lambda content: [entry.pop("segmentation") for entry in content["annotations"]])
    cfg = small_cfg("latent", "DATASETS.TRAIN", ("changed",))
    with pytest.raises(ValueError, match=r"no mask for any object.*MASK_ON"):
        check_datasets(cfg)
    cfg.MODEL.MASK_ON = False
    check_datasets(cfg)


def test_runs_where_polygons_are_expected_are_named_before_training(registered):
    def change(content):
        image, entry = content["images"][0], content["annotations"][0]
        size = [image["height"], image["width"]]
        entry["segmentation"] = {"size": size, "counts": [size[0] * size[1] - 9, 9]}

    registered(change)
    cfg = small_cfg("latent", "DATASETS.TRAIN", ("changed",))
    with pytest.raises(ValueError, match=r"RLE.*annotation 1.*MASK_FORMAT"):
        check_datasets(cfg)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    check_datasets(cfg)


def test_keypoints_are_mirrored_by_their_names(registered):
    def change(content):
        for entry in content["annotations"]:
            entry["keypoints"] = [10, 20, 2, 30, 40, 2, 50, 60, 2]
        for category in content["categories"]:
            category["keypoints"] = ["nose", "Left_eye", "right_eye"]

    registered(change)
    cfg = small_cfg("pixel", "DATASETS.TRAIN", ("changed",), "MODEL.KEYPOINT_ON", True)
    with pytest.raises(ValueError, match=r"3 keypoints.*NUM_KEYPOINTS 3"):
        check_datasets(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 3
    check_datasets(cfg)
    assert build_mapper(cfg, is_train=True).keypoint_hflip_indices == [0, 2, 1]


def test_keypoints_without_names_are_named_before_training(registered):
    registered(lambda content: None)
    cfg = small_cfg("pixel", "DATASETS.TRAIN", ("changed",), "MODEL.KEYPOINT_ON", True)
    with pytest.raises(ValueError, match=r"no names of keypoints.*KEYPOINT_ON"):
        check_datasets(cfg)


def test_records_are_those_of_the_normal_form(registered):
    def change(content):
        for entry in content["annotations"]:
            del entry["iscrowd"], entry["area"], entry["id"]
        content["annotations"][0]["ignore"] = 1
        content["annotations"][1]["segmentation"] = [[4, 4, 44, 44]]

    registered(change)
    first, second, third = DatasetCatalog.get("changed")[0]["annotations"]
    assert [first["iscrowd"], second["iscrowd"], third["iscrowd"]] == [1, 0, 0]
    assert "segmentation" not in second and "segmentation" in third


def test_images_that_do_not_exist_are_named_before_training(registered):
    registered(lambda content: content["images"][2].update(file_name="lost.png"))
    with pytest.raises(ValueError, match=r"faults \(1\): .*lost\.png"):
        check_datasets(small_cfg("latent", "DATASETS.TRAIN", ("changed",)))


@pytest.fixture
def restored():
    """Leaves the catalog as it was."""
    catalogs = [(catalog, dict(catalog.data)) for catalog in (DatasetCatalog, MetadataCatalog)]
    for metadata in MetadataCatalog.data.values():
        metadata.__dict__ = dict(metadata.__dict__)
    before = {name: dict(vars(metadata)) for name, metadata in MetadataCatalog.data.items()}
    yield
    for catalog, data in catalogs:
        catalog.data = data
    for name, values in before.items():
        MetadataCatalog.data[name].__dict__ = values


def test_built_in_names_are_checked_and_read_in_normal_form(
    coco_dataset, restored, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    content = json.loads(coco_dataset[0].read_text())
    for entry in content["annotations"]:
        entry["id"] -= 1
        del entry["iscrowd"]
    path = tmp_path / "datasets/coco/annotations/person_keypoints_val2014.json"
    path.parent.mkdir(parents=True)
    (tmp_path / "datasets/coco/val2014").symlink_to(coco_dataset[1])
    name = "keypoints_coco_2014_val"
    cfg = small_cfg("latent", "DATASETS.TEST", (name,), "MODEL.ROI_HEADS.NUM_CLASSES", 1)
    path.write_text(json.dumps(content))
    check_datasets(cfg)
    with open(MetadataCatalog.get(name).json_file, encoding="utf-8") as file:
        normal = json.load(file)["annotations"]
    assert [entry["id"] for entry in normal] == [*range(1, 10)]
    assert not any(entry["iscrowd"] for entry in normal)


def test_built_in_names_with_faults_are_refused(coco_dataset, restored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = json.loads(coco_dataset[0].read_text())
    content["annotations"][4]["bbox"] = [500, 500, 5, 5]
    path = tmp_path / "datasets/coco/annotations/instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    cfg = small_cfg("latent", "DATASETS.TEST", ("coco_2017_val",))
    with pytest.raises(ValueError, match=r"coco_2017_val: .*annotation 5"):
        check_datasets(cfg)


def test_a_loader_reads_the_normal_form_of_what_anyone_registered(coco_dataset, restored):
    content = json.loads(coco_dataset[0].read_text())
    content["annotations"][0] |= {"ignore": 1, "id": 0}  # at which Detectron2's own reader ends
    coco_dataset[0].write_text(json.dumps(content))
    register_coco_instances("changed", {}, *map(str, coco_dataset))
    cfg = small_cfg("latent", "DATASETS.TRAIN", ("changed",))
    records = next(iter(TrainingLoader(cfg, lambda record: record)))
    assert {"file_name", "annotations"} <= records[0].keys()
    images = [batch[0]["image_id"] for batch in Trainer.build_test_loader(cfg, "changed")]
    assert images == [0, 1, 2, 3]


def test_records_in_another_format_are_checked(restored):
    record = {"file_name": "a.png", "height": 20, "width": 20}
    boxes = [[1, 1, 9, 9], [9, 9, 1, 1], [30, 30, 40, 40], [1, 1, float("nan"), 2]]
    objects = [{"bbox": box, "bbox_mode": 0, "category_id": 0} for box in boxes]
    DatasetCatalog.register("changed", lambda: [record | {"annotations": objects}])
    cfg = small_cfg("latent", "DATASETS.TRAIN", ("changed",), "MODEL.MASK_ON", False)
    with pytest.raises(ValueError, match=r"faults \(3\): object 1 of a\.png.*object 2 .*object 3 "):
        check_datasets(cfg)


def test_another_number_of_classes_is_named(registered):
    registered(lambda content: content["categories"].append({"id": 3, "name": "third"}))
    with pytest.raises(ValueError, match=r"has 3 classes: set MODEL\.ROI_HEADS\.NUM_CLASSES"):
        check_datasets(small_cfg("latent", "DATASETS.TRAIN", ("changed",)))


def test_an_unknown_data_set_is_named_with_how_to_register_it():
    with pytest.raises(ValueError, match=r"nowhere.*--register nowhere"):
        check_datasets(small_cfg("latent", "DATASETS.TEST", ("nowhere",)))


def test_a_built_in_data_set_without_its_file_is_named_in_one_order(tmp_path):
    for name in ("absent_1", "absent_2"):
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
    try:
        for names in (("absent_1", "absent_2"), ("absent_2", "absent_1")):
            cfg = small_cfg("latent", "DATASETS.TRAIN", names[:1], "DATASETS.TEST", names[1:])
            with pytest.raises(FileNotFoundError, match=rf"{names[0]}.json.*DATASETS"):
                check_datasets(cfg)
    finally:
        for name in ("absent_1", "absent_2"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
