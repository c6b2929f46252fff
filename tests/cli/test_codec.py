import json
import os

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec import Bitstream
from cdl_d2.codec.entropy.tables import EntropyTables
from tests.commands import output_of, refused, run
from tests.conftest import png_of_16_bits
from tests.test_files import largest_file

CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", "2"]
UNTRAINED = ["--codec-weights", "untrained"]
COMPRESS = ["codec", "compress"]
DECOMPRESS = ["codec", "decompress"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((90, 70)).convert("RGB").save(path)
    return path


def test_an_image_goes_to_a_file_and_back(photo, tmp_path, codec):
    output_of(*COMPRESS, photo, *CODEC, "--output", tmp_path / "files")
    file = tmp_path / "files" / "photo.cdlz"
    output_of(*DECOMPRESS, file, "--output", tmp_path / "decoded")
    decoded = pil_to_tensor(Image.open(tmp_path / "decoded" / "photo.png"))
    expected = codec.decode(codec.decompress(Bitstream.load(file)))
    assert torch.equal(decoded, torch.round(expected * 255).byte())


def test_the_number_of_processes_does_not_change_the_files(photo, tmp_path):
    Image.open(photo).rotate(90).save(tmp_path / "rotated.png")
    contents = []
    for workers in (0, 1, 2):
        folder = tmp_path / str(workers)
        words = [photo, tmp_path / "rotated.png", tmp_path / "missing.png", "--output", folder]
        status, _, errors = run(*COMPRESS, *words, *CODEC, "--workers", workers)
        assert status == 1 and "missing.png" in errors
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(contents[0]) == 2 and contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("channels", [(), ("--channels", "0-31")], ids=["whole", "layers"])
def test_a_written_file_with_other_symbols_is_an_error(photo, monkeypatch, channels):
    encode = EntropyTables.encode
    monkeypatch.setattr(EntropyTables, "encode", lambda self, s, i: encode(self, s + 1, i))
    status, _, errors = run(*COMPRESS, photo, *CODEC, *channels)
    assert status == 1 and "photo.cdlz" in errors
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


def test_a_file_that_is_corrupted_on_the_disk_is_an_error(photo, monkeypatch):
    output_of(*COMPRESS, photo, *CODEC)
    before = photo.with_suffix(".cdlz").read_bytes()
    to_bytes = Bitstream.to_bytes
    monkeypatch.setattr(Bitstream, "to_bytes", lambda self: to_bytes(self)[:-1] + b"?")
    status, _, errors = run(*COMPRESS, photo, *CODEC, "--force")
    assert status == 1 and "photo.cdlz" in errors
    assert photo.with_suffix(".cdlz").read_bytes() == before


def test_the_quality_is_measured_on_request_and_changes_no_file(photo):
    assert "PSNR" not in output_of(*COMPRESS, photo, *CODEC)
    before = photo.with_suffix(".cdlz").read_bytes()
    [row] = json.loads(
        output_of("codec", "evaluate", photo.parent, "--codec", *CODEC[1:], "--json")
    )
    line = output_of(*COMPRESS, photo, *CODEC, "--force", "--quality-report")
    assert f"{row['PSNR (dB)']:.2f} dB" in line
    assert photo.with_suffix(".cdlz").read_bytes() == before


def test_info_names_codec_sizes_and_rates(photo):
    output_of(*COMPRESS, photo, *CODEC)
    (row,) = json.loads(output_of("codec", "info", photo.with_suffix(".cdlz"), "--json"))
    expected = {"codec": "tiny-bmshj2018-hyperprior", "quality": 2, "width": 90, "height": 70}
    assert row | expected | {"coded width": 128, "coded height": 128} == row
    assert row["bpp"] == 8 * photo.with_suffix(".cdlz").stat().st_size / (90 * 70)


def test_evaluation_reports_each_quality(photo):
    words = ["codec", "evaluate", photo.parent, "--codec", CODEC[1], "--quality", 1, 2, "--json"]
    worse, better = json.loads(output_of(*words))
    assert worse["bpp"] < better["bpp"] and worse["PSNR (dB)"] < better["PSNR (dB)"]
    images = json.loads(output_of(*words, "--per-image"))
    assert [row["image"] for row in images] == ["photo.png", "average"] * 2
    plot = photo.with_name("rate.png")
    output_of(*words, "--plot", plot)
    assert plot.stat().st_size > 1000


def test_evaluation_leaves_out_images_that_are_broken(photo):
    words = ["codec", "evaluate", photo.parent, "--codec", CODEC[1], "--quality", 2, "--json"]
    expected = output_of(*words)
    (photo.parent / "a-broken.png").write_bytes(photo.read_bytes()[:100])
    status, output, errors = run(*words)
    assert status == 1 and output == expected and "a-broken.png" in errors
    photo.unlink()
    assert str(photo.parent) in refused(*words)


def test_a_full_disk_is_noticed_and_replaces_nothing(photo):
    output_of(*COMPRESS, photo, *CODEC)
    good = photo.read_bytes()
    with largest_file(len(good) // 4):
        status, _, errors = run(*DECOMPRESS, photo.with_suffix(".cdlz"), "--force")
    assert status == 1 and str(photo.with_suffix(".cdlz")) in errors
    assert photo.read_bytes() == good
    assert sorted(p.name for p in photo.parent.iterdir()) == ["photo.cdlz", "photo.png"]


def test_two_layers_give_the_image_and_one_alone_does_not(photo, tmp_path):
    words = [*COMPRESS, photo, *CODEC, "--channels", "0-31,40", "--output", tmp_path / "layers"]
    output_of(*words)
    output_of(*COMPRESS, photo, *CODEC, "--output", tmp_path / "whole")
    base, enhancement = (tmp_path / "layers" / f"photo{s}.cdlz" for s in ("", ".enhancement"))
    assert base.stat().st_size < (tmp_path / "whole" / "photo.cdlz").stat().st_size
    for folder in ("layers", "whole"):
        files = (tmp_path / folder).iterdir()
        output_of(*DECOMPRESS, *files, "--output", tmp_path / f"{folder}-png")
    pictures = [(tmp_path / f"{f}-png" / "photo.png").read_bytes() for f in ("layers", "whole")]
    assert pictures[0] == pictures[1]
    assert "--force" in refused(*words)
    assert str(base) in refused(*DECOMPRESS, enhancement, "--output", tmp_path / "again")
    enhancement.rename(tmp_path / "layers" / "photo.rest.cdlz")  # its name in earlier versions
    output_of(*DECOMPRESS, base, "--output", tmp_path / "old")
    assert (tmp_path / "old" / "photo.png").read_bytes() == pictures[0]
    (tmp_path / "layers" / "photo.rest.cdlz").unlink()
    status, _, errors = run(*DECOMPRESS, base, "--output", tmp_path / "again")
    assert status == 1 and str(enhancement) in errors
    assert not (tmp_path / "again").exists()


def test_a_base_layer_with_all_channels_needs_no_other(photo, tmp_path):
    output_of(*COMPRESS, photo, *CODEC, "--channels", "0-191")
    (tmp_path / "photo.enhancement.cdlz").unlink()
    output_of(*DECOMPRESS, tmp_path / "photo.cdlz", "--force")


@pytest.mark.parametrize("name", ["photo.enhancement.cdlz", "photo.rest.cdlz"])
def test_replacing_two_layers_leaves_no_enhancement_layer(photo, tmp_path, name):
    output_of(*COMPRESS, photo, *CODEC, "--channels", "0-31")
    (tmp_path / "photo.cdlz").unlink()
    (tmp_path / "photo.enhancement.cdlz").rename(tmp_path / name)
    assert name in refused(*COMPRESS, photo, *CODEC)
    status, _, errors = run(*COMPRESS, photo, *CODEC, "--force")
    assert status == 0 and f"{name} is removed" in errors
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_whenever_a_writer_of_two_layers_is_killed_an_image_is_whole(
    photo, tmp_path, monkeypatch, renames
):
    layers = [*COMPRESS, photo, *CODEC, "--channels", "0-31", "--force"]
    file, pictures = photo.with_suffix(".cdlz"), []
    original = Image.open(photo).copy()
    for picture in (original, original.rotate(180)):
        picture.save(photo)
        output_of(*layers)
        output_of(*DECOMPRESS, file, "--force", "--output", tmp_path / "decoded")
        pictures.append((tmp_path / "decoded" / "photo.png").read_bytes())
    left, replace = [renames], os.replace

    def killed(temporary, path):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(temporary, path)

    original.save(photo)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        status, *_ = run(*layers)
    assert status == 130
    output_of(*DECOMPRESS, file, "--force", "--output", tmp_path / "decoded")
    decoded = (tmp_path / "decoded" / "photo.png").read_bytes()
    assert decoded == pictures[1 if renames < 2 else 0]


def test_two_names_of_one_folder_are_one_place(photo, tmp_path):
    Image.open(photo).save(photo.with_suffix(".jpg"))
    (tmp_path / "link").symlink_to(tmp_path)
    assert "photo.jpg" in refused(*COMPRESS, photo, tmp_path / "link" / "photo.jpg", *CODEC)
    output_of(*COMPRESS, photo, *CODEC)
    file = photo.with_suffix(".cdlz").name
    refused(*DECOMPRESS, tmp_path / file, tmp_path / "link" / file, "--force")


@pytest.mark.parametrize("kind", ["a pipe", "a folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "photo.png"
    os.mkfifo(path) if kind == "a pipe" else path.mkdir()
    (tmp_path / "more.txt").touch()
    words = [*COMPRESS, path, *CODEC, "--output", tmp_path / "out"]
    status, _, errors = run(*words)
    assert status and "photo.png" in errors and "Traceback" not in errors


@pytest.mark.parametrize("channels", ["a", "5-", "0-192", "3,3", "7-6", "", "0-99999999999"])
def test_channels_that_do_not_fit_are_named(photo, channels):
    assert "channel" in refused(*COMPRESS, photo, *CODEC, "--channels", channels)
    assert not photo.with_suffix(".cdlz").exists()


def test_images_of_a_folder_keep_their_places(photo, tmp_path):
    (tmp_path / "images" / "more").mkdir(parents=True)
    for place in ("photo.png", "more/photo.png"):
        Image.open(photo).save(tmp_path / "images" / place)
    output_of(*COMPRESS, tmp_path / "images", *CODEC, "--output", tmp_path / "files")
    written = {str(p.relative_to(tmp_path / "files")) for p in tmp_path.glob("files/**/*.cdlz")}
    assert written == {"photo.cdlz", "more/photo.cdlz"}


def test_a_bad_file_is_named_and_the_others_are_done(photo, tmp_path):
    bad = [tmp_path / name for name in ("text.png", "dds.png", "deep.png")]
    bad[0].write_text("no image")
    bad[1].write_bytes(b"DDS " + bytes(200))
    bad[2].write_bytes(png_of_16_bits())
    status, _, errors = run(*COMPRESS, *bad, photo, *CODEC, "--output", tmp_path / "files")
    assert status == 1 and all(path.name in errors for path in bad)
    assert [p.name for p in (tmp_path / "files").iterdir()] == ["photo.cdlz"]


def test_two_results_of_one_name_are_rejected(photo):
    Image.open(photo).save(photo.with_suffix(".jpg"))
    assert "photo.jpg" in refused(*COMPRESS, photo, photo.with_suffix(".jpg"), *CODEC)
    Image.open(photo).save(photo.with_name("photo.enhancement.png"))
    refused(*COMPRESS, photo, photo.with_name("photo.enhancement.png"), *CODEC)
    assert not list(photo.parent.glob("*.cdlz"))


@pytest.mark.parametrize("words", [[*COMPRESS, *CODEC], DECOMPRESS, ["codec", "info"]])
def test_a_missing_file_is_named(words, tmp_path):
    status, _, errors = run(*words[:2], tmp_path / "nowhere", *words[2:])
    assert status == 1 and "nowhere" in errors


@pytest.mark.parametrize(
    "options",
    [
        ["--codec", CODEC[1], "--quality", "9"],
        [*CODEC, "--device", "cuda:99"],
        [*CODEC, "--quantization", "rounded", "--channels", "1"],
        ["--codec", "tiny-mbt2018", "--quality", "1", *UNTRAINED, "--channels", "1"],
        [*CODEC, "--codec-weights", "."],
        [*CODEC, "--codec-weights", "nowhere"],
        [*CODEC, "--output", "setup.py"],
        [*CODEC, "--for", "output"],
        [*CODEC, "--as-is"],
        [],
    ],
)
def test_options_that_cannot_be_used_are_one_line(photo, options):
    assert refused(*COMPRESS, photo, *options)
    assert not photo.with_suffix(".cdlz").exists()


def test_a_codec_is_trained_and_used(photo, tmp_path):
    Image.linear_gradient("L").resize((100, 100)).convert("RGB").save(photo)
    train = ["--lmbda", 0.01, "--iterations", 2, "--batch-size", 1, "--patch-size", 64]
    train = ["codec", "train", tmp_path, *CODEC, *train, "--output", tmp_path / "trained"]
    output_of(*train)
    assert "resume" in refused(*train)
    weights = ["--codec-weights", tmp_path / "trained" / "model.safetensors"]
    output_of(*COMPRESS, photo, *CODEC, *weights)
    output_of(*DECOMPRESS, photo.with_suffix(".cdlz"), *weights, "--output", tmp_path / "decoded")
