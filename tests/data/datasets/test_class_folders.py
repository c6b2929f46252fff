import pytest

from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.data.datasets.drawn import SHAPES, write_classification


def test_labels_follow_the_sorted_names(tmp_path):
    list(write_classification(tmp_path, 10, (32, 32)))
    assert find_classes(tmp_path) == sorted(SHAPES)
    found = find_labelled_images(tmp_path)
    assert [path.parent.name for path, _ in found] == [sorted(SHAPES)[label] for _, label in found]
    assert len(found) == 10


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_classes(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folders"):
        find_classes(tmp_path)
    list(write_classification(tmp_path, 5, (32, 32)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*empty has no image"):
        find_labelled_images(tmp_path)
