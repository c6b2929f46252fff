"""Images after JPEG, HEVC and BPG compression, by `cdl codec conventional`."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdl_d2.bench.conventional import FORMATS, Reconstructor, nearest_quality
from cdl_d2.codec.io.image_files import find_images
from tests.commands import output_of, refused, run

CONVENTIONAL = ["codec", "conventional"]
# With the arguments of libbpg's programs; nothing is coded.
PROGRAMS = {
    "bpgenc": """#!/bin/sh
if [ "$1" = -h ]; then echo "BPG Image Encoder version 0.0"; exit 1; fi
[ "$1 $2 $3" = "-q 30 -o" ] && cp "$5" "$4"
""",
    "bpgdec": """#!/bin/sh
[ "$1" = -o ] && cp "$3" "$2"
""",
}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, side in (("a.png", 64), ("b.jpg", 48), ("more/a.png", 51)):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, 40), Image.Resampling.BICUBIC).save(folder / name)
    return folder


def compressed(images, output, *words):
    output_of(*CONVENTIONAL, images, "--output", output, *words)
    return json.loads((output / "rate.json").read_text())


def test_jpeg_reconstructions_and_bits_are_those_of_its_files(images, tmp_path):
    row = compressed(images, tmp_path / "out", "--format", "jpeg", "--quality", 20)
    bits = pixels = 0
    for path in images.rglob("*.*"):
        content, original = io.BytesIO(), Image.open(path).convert("RGB")
        original.save(content, format="JPEG", quality=20, optimize=True)
        bits += 8 * len(content.getvalue())
        pixels += original.width * original.height
        copy = Image.open((tmp_path / "out" / path.relative_to(images)).with_suffix(".png"))
        assert np.array_equal(np.array(copy), np.array(Image.open(content)))
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert row["bpp"] == row["bpp_of_pictures"] == bits / pixels
    assert row | {"format": "jpeg", "quality": 20, "images": 3} == row and "jpeg" in row["encoder"]


@pytest.mark.parametrize("name", ["jpeg", "heif"])
def test_more_bits_have_less_error_and_odd_sizes_are_kept(name, images, tmp_path):
    if name == "heif":
        pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    codec, rates, errors = FORMATS[name], [], []
    for quality in (codec.qualities[5], codec.qualities[-10]):
        output = tmp_path / str(quality)
        row = compressed(images, output, "--format", name, "--quality", quality)
        originals = [np.array(Image.open(images / n), int) for n in ("a.png", "more/a.png")]
        copies = [np.array(Image.open(output / n), int) for n in ("a.png", "more/a.png")]
        errors.append(sum(np.square(a - b).sum() for a, b in zip(originals, copies, strict=True)))
        rates.append(row["bpp_of_pictures"])
        assert row["encoder"] and 0 < row["bpp_of_pictures"] <= row["bpp"]
    assert rates[0] < rates[1] and errors[0] > errors[1]


def test_programs_of_bpg_are_called_with_their_arguments(images, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name, script in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    row = compressed(images, tmp_path / "out", "--format", "bpg", "--quality", 30)
    assert row["encoder"] == "BPG Image Encoder version 0.0" and row["images"] == 3
    copy, original = (Image.open(folder / "more/a.png") for folder in (tmp_path / "out", images))
    assert np.array_equal(np.array(copy), np.array(original))
    words = [*CONVENTIONAL, images, "--format", "bpg", "--quality", 31, "--output", tmp_path / "x"]
    assert "bpgenc failed" in run(*words)[2]


JPEG = FORMATS["jpeg"]
BACKWARDS = replace(  # as BPG's, from the largest number to the smallest
    JPEG,
    qualities=range(95, 0, -1),
    encode=lambda image, quality: JPEG.encode(image, 96 - quality),
)


@pytest.mark.parametrize("codec", [JPEG, BACKWARDS], ids=["forwards", "backwards"])
def test_the_quality_is_the_one_nearest_to_a_rate(codec, images):
    paths = find_images(images)
    qualities, rates = codec.qualities[30:40:3], []
    for quality in qualities:
        reconstructor = Reconstructor(codec, quality)
        for path in paths:
            reconstructor.write(path)
        rates.append(reconstructor.bpp)
    assert rates == sorted(set(rates))
    for quality, rate in zip(qualities, rates, strict=True):
        for target in (rate - 1e-4, rate, rate + 1e-4):
            assert nearest_quality(codec, paths, target) == quality
    assert nearest_quality(codec, paths, 1e-6) == codec.qualities[0]
    assert nearest_quality(codec, iter(paths), 100) == codec.qualities[-1]


def test_the_command_takes_a_rate(images, tmp_path):
    row = compressed(images, tmp_path / "out", "--format", "jpeg", "--rate", 4)
    assert row["quality"] == nearest_quality(JPEG, find_images(images), 4)


@pytest.mark.parametrize("how", [["--quality", 20], ["--rate", 1]])
def test_a_bad_image_is_named_and_the_others_are_done(images, tmp_path, how):
    (images / "bad.png").write_text("no image")
    words = [*CONVENTIONAL, images, "--format", "jpeg", *how, "--output", tmp_path / "out"]
    status, _, errors = run(*words)
    assert status == 1 and "bad.png" in errors
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert json.loads((tmp_path / "out/rate.json").read_text())["images"] == 3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--format", "jpeg"], "--quality"),
        (["--format", "jpeg", "--quality", 5, "--rate", 1], "--rate"),
        (["--format", "jpeg", "--quality", 0], "quality 0"),
        (["--format", "jpeg", "--rate", 0], "rate 0"),
        (["--format", "jpeg", "--rate", "nan"], "rate nan"),
        (["--format", "bpg", "--quality", 30], "bpgenc"),
    ],
)
def test_invalid_options_are_one_line(words, named, images, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert named in refused(*CONVENTIONAL, images, *words, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_output_folder_must_be_empty_and_names_distinct(images, tmp_path):
    words = [*CONVENTIONAL, images, "--format", "jpeg", "--quality", 5, "--output"]
    assert str(images) in refused(*words, images)
    Image.open(images / "a.png").save(images / "a.jpg")
    assert "a.jpg" in refused(*words, tmp_path / "out")
