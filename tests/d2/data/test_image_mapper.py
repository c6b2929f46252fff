import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.codec.io.image_files import ORIENTATION, read_image
from cdl_d2.d2 import build_mapper
from cdl_d2.errors import CdlError
from tests.conftest import fake_ghostscript, png_of_16_bits
from tests.d2.conftest import small_cfg

PLAIN = ("MODEL.META_ARCHITECTURE", "CompressedRCNN")
RECORD = {"file_name": "image.png", "sem_seg_file_name": "labels.png"}


@pytest.fixture(scope="module", params=["detection", "classification"])
def mapper(request):
    kind = "CompressedRCNN" if request.param == "detection" else "CompressedClassifier"
    return build_mapper(small_cfg("latent", "MODEL.META_ARCHITECTURE", kind), is_train=False)


def test_postscript_starts_no_other_program(mapper, tmp_path, monkeypatch):
    proof = fake_ghostscript(tmp_path, monkeypatch)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(CdlError, match=r"a\.png"):
        mapper({"file_name": str(tmp_path / "a.png")})
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["truncated", "16 bits", "a bomb"])
def test_what_cannot_be_read_is_one_error_that_names_it(mapper, tmp_path, kind, monkeypatch):
    path = tmp_path / "a.png"
    Image.effect_noise((200, 200), 50).save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "16 bits":
        path.write_bytes(png_of_16_bits())
    else:
        monkeypatch.setenv("CDL_MAX_PIXELS", "1000")
    with pytest.raises(CdlError, match=r"a\.png"):
        mapper({"file_name": str(path)})


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_training_reads_the_pixels_that_prediction_reads(tmp_path, form):
    exif, path = Image.Exif(), tmp_path / "a.png"
    exif[ORIENTATION] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, format=form, exif=exif)
    cfg = small_cfg("latent", *PLAIN, "INPUT.MIN_SIZE_TEST", 0, "INPUT.FORMAT", "RGB")
    item = build_mapper(cfg, is_train=False)({"file_name": str(path), "height": 64, "width": 48})
    assert torch.equal(item["image"], read_image(Image.open(path)))


def test_a_label_map_in_another_format_is_refused(tmp_path):
    mapper = build_mapper(small_cfg("latent", *PLAIN), is_train=True)
    for name, form in (("image.png", "PNG"), ("labels.png", "TGA")):
        Image.new("L", (64, 64)).save(tmp_path / name, format=form)
    record = {key: str(tmp_path / name) for key, name in RECORD.items()}
    with pytest.raises(CdlError, match=r"labels\.png"):
        mapper(record)


def test_an_error_of_another_kind_is_not_taken_for_a_damaged_image(tmp_path):
    mapper = build_mapper(small_cfg("latent", *PLAIN), is_train=True)
    Image.new("L", (64, 64)).save(tmp_path / "image.png")
    record = {"file_name": str(tmp_path / "image.png"), "annotations": [{"no": "box"}]}
    with pytest.raises(KeyError):
        mapper(record)


@pytest.mark.parametrize(
    ("form", "crop"), [("polygon", False), ("bitmask", False), ("bitmask", True)]
)
def test_objects_without_a_mask_stay_and_are_told(tmp_path, form, crop):
    cfg = small_cfg("latent", *PLAIN, "INPUT.MASK_FORMAT", form, "INPUT.CROP.ENABLED", crop)
    cfg.INPUT.CROP.SIZE = [0.9, 0.9]
    Image.new("L", (64, 64)).save(tmp_path / "image.png")
    box = {"bbox": [20, 20, 20, 20], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[22:38, 22:38] = 1
    mask = [[22, 22, 38, 22, 38, 38]] if form == "polygon" else coco_mask.encode(mask)
    objects = [box, box | {"segmentation": mask}, box | {"iscrowd": 1}]
    record = {"file_name": str(tmp_path / "image.png"), "annotations": objects}
    torch.manual_seed(0)
    instances = build_mapper(cfg, is_train=True)(record)["instances"]
    assert instances.gt_has_mask.tolist() == [False, True]
    assert instances.gt_masks.nonempty().tolist() == [False, True]
    widths = instances.gt_boxes.tensor[:, 2] - instances.gt_boxes.tensor[:, 0]
    assert (widths[0] > widths[1]) == crop  # then boxes are those of masks, where there are some
    record["annotations"] = objects[1:]
    assert not build_mapper(cfg, is_train=True)(record)["instances"].has("gt_has_mask")


@pytest.mark.parametrize("size", [(4000, 1), (1, 4000), (2, 9000)])
def test_a_side_that_shrinks_to_nothing_keeps_a_pixel(tmp_path, size):
    Image.new("L", size).save(tmp_path / "image.png")
    box = {"bbox": [0, 0, *size], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    box["segmentation"] = [[0, 0, size[0], 0, *size, 0, size[1]]]
    cfg = small_cfg("latent", *PLAIN, "INPUT.MAX_SIZE_TRAIN", 384)
    for is_train in (True, False):
        record = {"file_name": str(tmp_path / "image.png"), "annotations": [dict(box)]}
        item = build_mapper(cfg, is_train)(record)
        assert min(item["image"].shape[1:]) == 1
        assert not is_train or len(item["instances"]) == 1
