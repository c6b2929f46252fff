import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec.image_files import ORIENTATION, read_image, reading_image
from cdl_d2.errors import CdlError
from tests.conftest import write_bomb

MAKE = {
    "a decompression bomb": write_bomb,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "text": lambda path: path.write_text("no image"),
    "16 bits": lambda path: Image.fromarray(np.zeros((4, 4), np.uint16)).save(path),
}


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_no_readable_image_is_one_error_that_names_it(tmp_path, kind):
    path = tmp_path / "file.png"
    MAKE[kind](path)
    with pytest.raises(CdlError) as raised:
        read_image(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_image_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_image(tmp_path / "none.png")


def test_an_error_of_our_own_is_not_taken_for_a_damaged_image(tmp_path):
    ours = CdlError("something else")
    with pytest.raises(CdlError) as raised, reading_image(tmp_path):
        raise ours
    assert raised.value is ours


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_read_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as file:
        expected = pil_to_tensor(ImageOps.exif_transpose(file))
    assert torch.equal(read_image(path), expected)


def test_odd_entries_of_the_exif_do_not_hide_an_image(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 6, "maker"
    path = tmp_path / "a.jpg"
    Image.new("L", (8, 4)).save(path, exif=exif)
    path.write_bytes(
        path.read_bytes().replace(b"\x01\x0f\x00\x02\0\0\0\x06", b"\x01\x0f\0\x0b\0\0\0\1")
    )
    assert read_image(path).shape == (3, 8, 4)
