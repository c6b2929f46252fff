import re

import pytest
import torch
from cdl_d2.cli.codec import main
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec import Bitstream

CODEC = ["--name", "tiny-bmshj2018-hyperprior", "--quality", "2"]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((90, 70)).convert("RGB").save(path)
    return path


def test_an_image_goes_to_a_file_and_back(photo, tmp_path, codec, capsys):
    assert main(["compress", *CODEC, str(photo), "--output", str(tmp_path / "files")]) == 0
    assert re.search(r"1 images: 0\.\d+ bits per pixel .* PSNR \d+", capsys.readouterr().out)
    file = tmp_path / "files" / "photo.cdlz"
    assert main(["decompress", str(file), "--output", str(tmp_path / "decoded")]) == 0
    decoded = pil_to_tensor(Image.open(tmp_path / "decoded" / "photo.png"))
    expected = codec.decode(codec.decompress(Bitstream.load(file)))
    assert torch.equal(decoded, torch.round(expected * 255).byte())


def test_info_names_codec_sizes_and_rates(photo, capsys):
    main(["compress", *CODEC, str(photo)])
    assert main(["info", str(photo.with_suffix(".cdlz"))]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert (
        "tiny-bmshj2018-hyperprior quality 2" in line and "90x70 pixels, coded as 128x128" in line
    )


def test_two_layers_give_the_image_and_one_alone_does_not(photo, tmp_path, codec, capsys):
    words = ["compress", *CODEC, "--channels", "0-31,40", str(photo), "--output"]
    assert main([*words, str(tmp_path / "layers")]) == 0
    assert "33 of 192 channels" in capsys.readouterr().out
    main(["compress", *CODEC, str(photo), "--output", str(tmp_path / "whole")])
    first, rest = (tmp_path / "layers" / f"photo{s}.cdlz" for s in ("", ".rest"))
    assert first.stat().st_size < (tmp_path / "whole" / "photo.cdlz").stat().st_size
    for folder in ("layers", "whole"):
        files = [str(path) for path in (tmp_path / folder).iterdir()]
        assert main(["decompress", *files, "--output", str(tmp_path / f"{folder}-png")]) == 0
    pictures = [(tmp_path / f"{f}-png" / "photo.png").read_bytes() for f in ("layers", "whole")]
    assert pictures[0] == pictures[1]
    assert main([*words, str(tmp_path / "layers")]) == 1
    assert "add --force" in capsys.readouterr().err
    assert main(["decompress", str(rest), "--output", str(tmp_path / "again")]) == 1
    assert f"is a second layer: give the first one, {first}" in capsys.readouterr().err
    rest.unlink()
    assert main(["decompress", str(first), "--output", str(tmp_path / "again")]) == 1
    assert "holds 33 of 192 channels: give its second layer" in capsys.readouterr().err
    assert not list((tmp_path / "again").iterdir())


def test_a_first_layer_with_all_channels_needs_no_second(photo, tmp_path):
    words = ["compress", *CODEC, str(photo), "--output", str(tmp_path), "--force"]
    assert main([*words, "--channels", "0-191"]) == 0
    (tmp_path / "photo.rest.cdlz").unlink()
    assert main(["decompress", str(tmp_path / "photo.cdlz"), "--force"]) == 0


def test_replacing_two_layers_leaves_no_second_one(photo, tmp_path, capsys):
    words = ["compress", *CODEC, str(photo), "--output", str(tmp_path)]
    assert main([*words, "--channels", "0-31"]) == 0
    (tmp_path / "photo.cdlz").unlink()
    assert main(words) == 1
    assert "photo.rest.cdlz exists already" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert not (tmp_path / "photo.rest.cdlz").exists()


@pytest.mark.parametrize("channels", ["a", "5-", "0-192", "3,3", "7-6", "", "0-99999999999"])
def test_channels_that_do_not_fit_are_named(photo, channels, capsys):
    status = main(["compress", *CODEC, "--channels", channels, str(photo)])
    assert status == 1
    assert "channel" in capsys.readouterr().err
    assert not photo.with_suffix(".cdlz").exists()


def test_a_bad_file_is_named_and_the_others_are_done(photo, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    output = tmp_path / "files"
    assert main(["compress", *CODEC, str(bad), str(photo), "--output", str(output)]) == 1
    assert "bad.png cannot be read as an image" in capsys.readouterr().err
    assert [p.name for p in output.iterdir()] == ["photo.cdlz"]


def test_no_file_is_replaced_unasked(photo, capsys):
    assert main(["compress", *CODEC, str(photo)]) == 0
    assert main(["compress", *CODEC, str(photo)]) == 1
    assert "add --force" in capsys.readouterr().err
    assert main(["compress", *CODEC, str(photo), "--force"]) == 0


def test_two_files_of_one_name_are_refused(photo, capsys):
    other = photo.with_suffix(".jpg")
    Image.open(photo).save(other)
    assert main(["compress", *CODEC, str(photo), str(other)]) == 1
    assert "same name without suffix" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["compress", *CODEC], ["decompress"], ["info"]])
def test_a_missing_file_is_named(command, tmp_path, capsys):
    output = [] if command == ["info"] else ["--output", str(tmp_path / "out")]
    assert main([*command, str(tmp_path / "nowhere"), *output]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_wrong_codec_is_named(photo, capsys):
    arguments = ["compress", "--name", "tiny-bmshj2018-hyperprior", "--quality", "9", str(photo)]
    assert main(arguments) == 1
    assert "quality 9" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(photo, capsys):
    assert main(["compress", *CODEC, "--device", "cuda:99", str(photo)]) == 1
    assert "device 'cuda:99' cannot be used" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_named(photo, capsys):
    assert main(["compress", *CODEC, str(photo), "--output", str(photo)]) == 1
    assert "is a file, not a folder" in capsys.readouterr().err
