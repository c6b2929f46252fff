import re

import pytest

from cdl_d2.data.datasets.voc import read_voc_classes
from tests.voc import write_voc

OBJECT = re.compile("<object>.*?</object>", re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    write_voc(tmp_path, [["dog", "cat"], ["person"], ["cat"]])
    return tmp_path


def test_classes_are_sorted_and_those_of_the_whole_folder(folder):
    (folder / "ImageSets/Main/few.txt").write_text("000001\n000002\n")
    assert read_voc_classes(folder, "train") == ["cat", "dog", "person"]
    assert read_voc_classes(folder, "few") == ["cat", "dog", "person"]


def test_a_list_of_classes_sets_their_order(folder):
    (folder / "classes.txt").write_text("person\nbird\ncat\ndog\n")
    assert read_voc_classes(folder, "train") == ["person", "bird", "cat", "dog"]
    (folder / "classes.txt").write_text("person\ncat\n")
    with pytest.raises(ValueError, match="'dog'"):
        read_voc_classes(folder, "train")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("Annotations/000000.xml", "<name>dog</name>", "", "<object> has no <name>"),
        ("Annotations/000000.xml", "<pose>Left</pose>", "", "<object> has no <pose>"),
        ("Annotations/000000.xml", "<xmin>5<", "<xmin>5.5<", "bndbox/xmin> of <object> is '5.5'"),
        ("Annotations/000000.xml", "<xmin>5<", f"<xmin>{2**64}<", "bndbox/xmin> of <object> is"),
        ("Annotations/000000.xml", "<name>dog<", "<name>../../dog<", "'../../dog'"),
        ("Annotations/000000.xml", "<name>dog<", f"<name>{999 * 'x'}<", "xxx"),
        ("Annotations/000000.xml", "<width>96<", "<width>-3<", "-3"),
        ("Annotations/000000.xml", "<width>96<", "<width>9999999<", "pixels"),
        ("Annotations/000000.xml", "</annotation>", "", "000000.xml"),
        ("ImageSets/Main/train.txt", "000000", "../../000000", "'../../000000' is not the ID"),
        ("ImageSets/Main/train.txt", "000000", "000000 1", "'000000 1' is not the ID"),
        ("ImageSets/Main/train.txt", "000000", "000000#", "'000000#' is not the ID"),
        ("ImageSets/Main/train.txt", "000000", "", "'' is not the ID"),
        ("ImageSets/Main/train.txt", "000001\n000002\n", "", "1 images"),
    ],
)
def test_invalid_content_is_one_error_that_names_the_file(folder, file, old, new, message):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_voc_classes(folder, "train")
    assert file in str(caught.value)


@pytest.mark.parametrize(
    "file", ["ImageSets/Main/train.txt", "JPEGImages/000000.jpg", "Annotations/000000.xml"]
)
def test_a_file_that_is_missing_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        read_voc_classes(folder, "train")


def test_entities_that_expand_are_an_error(folder):
    bomb = "".join(f'<!ENTITY e{i} "{10 * f"&e{i - 1};"}">' for i in range(1, 12))
    text = (folder / "Annotations/000000.xml").read_text()
    text = text.replace("<name>dog</name>", "<name>&e11;</name>")
    head = f'<!DOCTYPE annotation [<!ENTITY e0 "dog">{bomb}]>'
    (folder / "Annotations/000000.xml").write_text(head + text)
    with pytest.raises(ValueError, match=r"000000\.xml"):
        read_voc_classes(folder, "train")
