from pathlib import Path

import pytest

from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.data.datasets.synthetic import SHAPES, write_classification
from cdl_d2.errors import CdlError


def test_labels_follow_the_sorted_names(tmp_path):
    list(write_classification(tmp_path, 10, (32, 32)))
    assert find_classes(tmp_path) == sorted(SHAPES)
    images = find_labelled_images(tmp_path)
    assert [path.parent.name for path, _ in images] == [sorted(SHAPES)[i] for _, i in images]
    assert len(images) == 10


def test_a_list_names_images_of_class_folders_as_minc2500_does(tmp_path):
    list(write_classification(tmp_path / "images", 10, (32, 32)))
    whole = find_labelled_images(tmp_path / "images")
    chosen = [path.relative_to(tmp_path).as_posix() for path, _ in whole[::2]]
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "train1.txt").write_text("\n".join(chosen) + "\n")
    classes = find_classes(labels / "train1.txt")
    assert classes == sorted({Path(name).parent.name for name in chosen})
    listed = find_labelled_images(labels / "train1.txt")
    assert [(path, classes[label]) for path, label in listed] == [
        (path, path.parent.name) for path, _ in whole[::2]
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "list.txt"), (b"\xff\xfe", "UTF-8"), (b"a/x.png\na/y.png", "y.png")],
)
def test_an_invalid_list_is_an_error(tmp_path, content, message):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(CdlError, match=message):
        find_labelled_images(tmp_path / "list.txt")


def test_a_missing_folder_or_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_classes(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folders"):
        find_classes(tmp_path)
    list(write_classification(tmp_path, 5, (32, 32)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*empty has no image"):
        find_labelled_images(tmp_path)
