"""Conversion of small synthetic faces in CelebAMask-HQ's layout."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cdl_d2.data.datasets.attributes import read_attributes
from cdl_d2.data.datasets.celebamask import PARTS
from cdl_d2.data.datasets.image_lists import list_images
from tests.commands import output_of, refused, run

OVALS = {"skin": (8, 4, 24, 28), "nose": (14, 12, 18, 20), "hair": (8, 2, 24, 10)}
FACES = {0: "000001.jpg", 1: "162771.jpg", 2000: "162770.jpg", 29999: "202599.jpg"}


def oval(part, scale=1, colour=255):
    picture = Image.new("L", (32 * scale, 32 * scale))
    ImageDraw.Draw(picture).ellipse([scale * side for side in OVALS[part]], fill=colour)
    return picture


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "CelebAMask-HQ"
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    for number in FACES:
        oval("skin", scale=2, colour=200).convert("RGB").save(
            folder / "CelebA-HQ-img" / f"{number}.jpg"
        )
        masks = folder / "CelebAMask-HQ-mask-anno" / str(number // 2000)
        masks.mkdir(parents=True, exist_ok=True)
        for part in OVALS:
            oval(part).convert("RGB").save(masks / f"{number:05d}_{part}.png")
    rows = [f"{number}.jpg {number % 2 * 2 - 1} -1" for number in FACES]
    table = [str(len(FACES)), "Smiling Young", *rows]
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text("\n".join(table))
    mapping = ["idx    orig_idx    orig_file", *(f"{n}    0    {f}" for n, f in FACES.items())]
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(mapping))
    return folder


def written(output):
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}


def test_in_label_maps_later_parts_cover_earlier_ones(faces, tmp_path):
    output_of("data", "import-celebamask", faces, "--output", tmp_path / "out")
    names = (tmp_path / "out/train/classes.txt").read_text().split()
    assert len(names) == 19 and names[0] == "background"
    labels = np.array(Image.open(tmp_path / "out/train/labels/2000.png"))
    hair, skin = (np.array(oval(part)) > 0 for part in ("hair", "skin"))
    assert (labels[hair] == names.index("hair")).all() and hair[skin].any()
    assert (labels[skin & ~hair & ~(np.array(oval("nose")) > 0)] == names.index("skin")).all()
    assert (labels[~hair & ~skin] == 0).all() and PARTS.index("hair") > PARTS.index("skin")
    picture = Image.open(tmp_path / "out/train/images/2000.png")
    assert picture.size == (32, 32) and picture.getpixel((16, 16))[0] > 150


def test_images_and_attributes_are_split_as_celeba_is(faces, tmp_path):
    output_of("data", "import-celebamask", faces, "--output", tmp_path / "out")
    expected = {"train": {"0": [0, 0], "2000": [0, 0]}, "val": {"1": [1, 0]}}
    for split, rows in (expected | {"test": {"29999": [1, 0]}}).items():
        names = list_images(tmp_path / "out" / split / "images")
        assert names == [f"{number}.png" for number in rows]
        table = read_attributes(tmp_path / "out" / split / "attributes.csv")
        assert table.select_rows(names) == list(rows.values())


def test_an_invalid_image_is_named_and_the_next_run_converts_only_missing_ones(faces, tmp_path):
    words = "data", "import-celebamask", faces, "--output", tmp_path / "out"
    bad, finished = (faces / "CelebA-HQ-img" / name for name in ("2000.jpg", "0.jpg"))
    content = bad.read_bytes()
    bad.write_text("no image")
    status, _, errors = run(*words)
    assert status == 1 and "2000.jpg" in errors
    table = read_attributes(tmp_path / "out/train/attributes.csv")
    assert table.select_rows(list_images(tmp_path / "out/train/images")) == [[0, 0]]
    bad.write_bytes(content)
    finished.write_text("not read again")
    output_of(*words)
    assert len(written(tmp_path / "out")) == 2 * len(FACES) + 2 * 3


@pytest.mark.parametrize("case", ["size", "form", "masks", "number"])
def test_a_mismatch_is_named(faces, tmp_path, case):
    masks, images = faces / "CelebAMask-HQ-mask-anno" / "0", faces / "CelebA-HQ-img"
    if case == "size":
        Image.new("L", (16, 16)).save(masks / "00001_nose.png")
    elif case == "form":
        Image.new("RGB", (64, 48)).save(images / "1.jpg")
    elif case == "masks":
        for path in masks.glob("00001_*.png"):
            path.unlink()
    else:
        (images / "1.jpg").rename(images / "1a.jpg")
    status, _, errors = run("data", "import-celebamask", faces, "--output", tmp_path / "out")
    assert status == 1 and len([line for line in errors.splitlines() if "00001" in line]) <= 1
    assert "import-celebamask: " in errors and not (tmp_path / "out/val").exists()


@pytest.mark.parametrize(
    "name", ["CelebA-HQ-to-CelebA-mapping.txt", "CelebAMask-HQ-attribute-anno.txt"]
)
def test_a_missing_or_bad_table_is_one_line(faces, tmp_path, name):
    words = "data", "import-celebamask", faces, "--output", tmp_path / "out"
    (faces / name).write_text("1\nnothing of the kind")
    assert name in refused(*words)
    (faces / name).unlink()
    assert name in refused(*words)
