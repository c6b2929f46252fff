import pytest

from cdl_d2.codec.io.folders import is_leftover, list_files
from cdl_d2.codec.io.image_files import find_images
from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.data.datasets.image_lists import list_images
from cdl_d2.prediction.sources import find_sources

SYSTEMS = [".DS_Store", "Thumbs.db", "._a.png", "__MACOSX/a.png", "desktop.ini", ".cache/b.png"]
SYSTEMS += [".ipynb_checkpoints/a.png", "@eaDir/a.png", "$RECYCLE.BIN/a.png"]
SUFFIXES = ["tif", "TIFF", "gif", "ppm", "pgm", "jfif", "JPG", "jpe", "webp", "bmp"]


def make(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names_of(folder):
    """Return the names that all searches find, which must be equal."""
    names = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert names == list_images(folder) == list(find_sources([str(folder)]))
    return names


def test_every_search_finds_all_images_that_can_be_read(tmp_path):
    expected = sorted(f"{index}.{suffix}" for index, suffix in enumerate(SUFFIXES))
    assert names_of(make(tmp_path, expected)) == expected


def test_files_of_operating_systems_are_neither_images_nor_classes(tmp_path):
    make(tmp_path, SYSTEMS)
    assert names_of(make(tmp_path, ["cat/a.png"])) == ["cat/a.png"]
    assert find_classes(tmp_path) == ["cat"]


@pytest.mark.parametrize(
    "find", [find_images, find_labelled_images, lambda folder: find_sources([f"{folder}"])]
)
def test_skipped_files_are_counted_in_one_line_with_an_example(tmp_path, caplog, find):
    make(tmp_path, [*SYSTEMS, "cat/a.png", "dog/b.png", "cat/notes.txt", "dog/b.json"])
    for _ in range(2):  # logged once
        find(tmp_path)
    (line,) = (record.getMessage() for record in caplog.records if "skip" in record.getMessage())
    assert "2 files" in line and "notes.txt" in line and "\n" not in line


def test_linked_folders_are_followed_and_circles_end(tmp_path):
    make(tmp_path / "away", ["c.png"])
    folder = make(tmp_path / "data", ["real/a.png", "b.png"])
    for name, target in (
        *(("again", "real"), ("away", "../away"), ("circle", "."), ("real/up", "..")),
        *(("out", "../.."), ("gone", "nowhere"), ("one.png", "real/a.png")),
    ):
        (folder / name).symlink_to(target)
    (tmp_path / "away" / "back").symlink_to(folder)
    assert names_of(folder) == ["away/c.png", "b.png", "one.png", "real/a.png"]
    make(tmp_path / "linked", ["a.png"])
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "2024").symlink_to("../linked")
    assert names_of(tmp_path / "links") == ["2024/a.png"]


def test_a_linked_class_is_a_class(tmp_path):
    make(tmp_path, ["cat/a.png"])
    (tmp_path / "dog").symlink_to("cat")
    labelled = [(path.parent.name, label) for path, label in find_labelled_images(tmp_path)]
    assert labelled == [("cat", 0), ("dog", 1)]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    listing = list_files(tmp_path / "nowhere", lambda name: True)
    assert list(listing.errors) == [tmp_path / "nowhere"]


@pytest.mark.parametrize("name", ["a.png", "..", "folder", "a.hidden"])
def test_other_names_are_no_leftovers(name):
    assert not is_leftover(name)
