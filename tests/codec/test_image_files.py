import io
import struct
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec.io.image_files import (
    FORMATS,
    ORIENTATION,
    find_images,
    read_image,
    read_image_size,
    reading_image,
)
from cdl_d2.codec.latent import MAX_PIXELS_VARIABLE
from cdl_d2.errors import CdlError
from tests.conftest import fake_ghostscript, png_of_16_bits, write_bomb

MAKE = {
    "a decompression bomb": write_bomb,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "text": lambda path: path.write_text("no image"),
    "16 bits": lambda path: Image.fromarray(np.zeros((4, 4), np.uint16)).save(path),
    "16 bits of each colour": lambda path: path.write_bytes(png_of_16_bits()),
    "12 bits of each colour": lambda path: path.write_bytes(b"P6 2 2 4095\n" + bytes(24)),
    "the same in plain text": lambda path: path.write_text("P3 1 1 65535 9 9 9\n"),
}
MODES = {  # that files of a format have
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "GIF": ("L", "P", "RGB"),
    "PPM": ("1", "L", "RGB", "I;16"),
}
NOT_READ = ["EPS", "DDS", "TGA", "ICO", "PCX"]


@pytest.mark.parametrize("kind", MAKE)
def test_an_unreadable_image_is_one_error_that_names_it(tmp_path, kind):
    path = tmp_path / "file.png"
    MAKE[kind](path)
    with pytest.raises(CdlError) as raised:
        read_image(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_image_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_image(tmp_path / "none.png")


def test_a_CdlError_is_not_converted(tmp_path):
    error = CdlError("something else")
    with pytest.raises(CdlError) as raised, reading_image(tmp_path):
        raise error
    assert raised.value is error


def test_a_folder_with_the_name_of_an_image_is_searched(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.png" / "b.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")  # for the reader to report
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a.jpg", "a.png/b.png", "gone.png"]


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
    assert read_image_size(path) == read_image_size("a.png", path.read_bytes())
    assert read_image_size(path) == tuple(expected.shape[1:])


@pytest.mark.parametrize("mode", ["L", "RGB", "1"])
def test_a_turned_tiff_is_read_alike_from_a_path_and_from_memory(tmp_path, mode):
    exif, path = Image.Exif(), tmp_path / "a.tif"
    exif[ORIENTATION] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, exif=exif)
    expected = read_image(Image.fromarray(pixels).convert(mode)).transpose(1, 2).flip(2)
    for source in (path, path.read_bytes(), Image.open(path)):
        assert torch.equal(read_image(source), expected)
    assert read_image_size(path) == (6, 4)


def test_odd_entries_of_the_exif_do_not_hide_an_image(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = 6, "maker"
    path = tmp_path / "a.jpg"
    Image.new("L", (8, 4)).save(path, exif=exif)
    path.write_bytes(
        path.read_bytes().replace(b"\x01\x0f\x00\x02\0\0\0\x06", b"\x01\x0f\0\x0b\0\0\0\1")
    )
    assert read_image(path).shape == (3, 8, 4)


@pytest.mark.parametrize("form", NOT_READ)
def test_other_formats_are_not_read_whatever_their_suffix(tmp_path, form):
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 16)).save(path, format=form)
    with pytest.raises(CdlError, match=r"a\.png"):
        read_image(path)


def test_postscript_starts_no_other_program(tmp_path, monkeypatch):
    proof = fake_ghostscript(tmp_path, monkeypatch)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(CdlError):
        read_image(tmp_path / "a.png")
    assert not proof.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_a_corrupted_file_is_read_or_one_error(tmp_path, form):
    path, rng = tmp_path / "a.png", np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path, format=form)
    assert read_image(path).shape == (3, 40, 50)
    whole = path.read_bytes()
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for position in rng.integers(0, min(len(content), 200), 3):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            assert read_image(path).dtype == torch.uint8
        except CdlError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("content", [b"P6 1 1 127\n\x7f\x7f\x7f", b"P3 1 1 100 100 100 100\n"])
def test_fewer_than_8_bits_are_read(tmp_path, content):
    (tmp_path / "a.ppm").write_bytes(content)
    assert read_image(tmp_path / "a.ppm").eq(255).all()


def test_a_pixel_of_16_bits_is_no_channel_of_16_bits(tmp_path):
    size = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    pixels = struct.pack("<HH", 0x7C00, 0x001F)  # red and blue, 5 bits each
    head = b"BM" + struct.pack("<IHHI", 14 + len(size) + len(pixels), 0, 0, 14 + len(size))
    (tmp_path / "a.bmp").write_bytes(head + size + pixels)
    assert read_image(tmp_path / "a.bmp")[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]


def test_an_image_of_more_pixels_than_allowed_is_an_error(tmp_path, monkeypatch):
    Image.new("L", (65, 64)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, 64, 65)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(128 * 64 - 1))  # it is coded as 128 x 64
    with pytest.raises(CdlError, match=rf"a\.png.*{MAX_PIXELS_VARIABLE}"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(CdlError, match="many"):
        read_image(tmp_path / "a.png")


def test_ignored_frames_and_transparency_are_warned_of(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"a\.png.*first"):
        pixels = read_image(tmp_path / "a.png")
    assert pixels[0].eq(255).all()
    Image.new("RGBA", (8, 8), (0, 255, 0, 9)).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match=r"b\.png.*transparency"):
        pixels = read_image(tmp_path / "b.png")
    assert pixels[1].eq(255).all()


@st.composite
def files_of_images(draw):
    """The bytes of an image file of any mode, orientation, number of frames, perhaps cut off."""
    form = draw(st.sampled_from(FORMATS))
    mode, orientation = draw(st.sampled_from(MODES[form])), draw(st.integers(0, 9))
    size = draw(st.sampled_from([(1, 1), (5, 3), (1, 40), (40, 1)]))
    noise = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (*size, 3), np.uint8)
    picture = Image.fromarray(noise)
    picture = Image.new(mode, picture.size, 9) if mode == "I;16" else picture.convert(mode)
    options, exif = {}, Image.Exif()
    exif[ORIENTATION] = orientation
    if form in ("JPEG", "PNG", "WEBP", "TIFF"):
        options["exif"] = exif
    if form in ("PNG", "GIF") and mode in ("L", "P") and draw(st.booleans()):
        options["transparency"] = 3
    if form in ("PNG", "WEBP", "TIFF", "GIF") and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [picture.rotate(180)]}
    file = io.BytesIO()
    picture.save(file, format=form, **options)
    content = file.getvalue()
    return content[: len(content) // 2] if draw(st.integers(0, 3)) == 0 else content


def outcome(read):
    try:
        return read().tolist()
    except CdlError:
        return CdlError


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(content=files_of_images())
def test_an_image_gives_the_same_through_every_door(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "door"
    path.write_bytes(content)
    expected = outcome(partial(read_image, path))
    sources = [str(path), content, bytearray(content), memoryview(content)]
    try:
        sources += [Image.open(path), Image.open(io.BytesIO(content)), Image.open(path)]
        sources[-1].load()
        sources += [sources[-1].copy()]
    except OSError:  # Pillow itself refuses it
        assert expected is CdlError
    outcomes = [outcome(partial(read_image, source)) for source in sources]
    assert outcomes == [expected] * len(sources)
    if expected is not CdlError:
        size = read_image_size(path)
        assert size == (len(expected[0]), len(expected[0][0])) == read_image_size("", content)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_an_array_or_tensor_is_read_as_the_picture_that_it_is_of(mode):
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    picture = Image.fromarray(noise, "RGBA").convert(mode)
    array = np.array(picture)
    tensor = torch.from_numpy(array if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    sources = [array, tensor, array[::-1, ::-1].copy()[::-1, ::-1]]
    sources += [array[:, :, None], tensor[None]] if array.ndim == 2 else []
    for source in sources:
        assert torch.equal(read_image(source), read_image(picture))


@pytest.mark.parametrize(
    "source",
    [
        *(np.zeros((4, 4, 3), np.float32), torch.rand(3, 4, 4), np.zeros((4, 4, 3), np.int64)),
        *(np.zeros((4, 4, 3), np.uint16), np.zeros((3, 9, 9), np.uint8), np.array([[None]])),
        *(torch.zeros(9, 9, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)),
        *(np.zeros((0, 4, 3), np.uint8), np.zeros(3, np.uint8), 5, None, [1], b""),
        *(Image.new("F", (4, 4)), Image.new("I;16", (4, 4)), Image.new("RGB", (0, 4))),
        torch.zeros(3, 4, 4, dtype=torch.uint8).to_sparse(),
        torch.zeros(3, 4, 4, dtype=torch.uint8, device="meta"),
    ],
)
def test_an_ambiguous_array_is_an_error(source):
    with pytest.raises(CdlError):
        read_image(source)


def test_every_door_has_the_same_limit_of_pixels(tmp_path, monkeypatch):
    picture, path = Image.new("RGB", (65, 64)), tmp_path / "a.png"
    picture.save(path)
    sources = [path, path.read_bytes(), picture, np.asarray(picture), read_image(path)]
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(128 * 64 - 1))
    for source in sources:
        with pytest.raises(CdlError, match=MAX_PIXELS_VARIABLE):
            read_image(source)


def test_a_picture_whose_file_was_closed_is_one_error(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        pass
    with pytest.raises(CdlError, match=r"a\.png"):
        read_image(picture)
