"""Files that were coded at another size than the model's: one warning per run."""

from dataclasses import replace

import pytest
import torch

from cdl_d2.data import Variant
from cdl_d2.nn import CodedInput
from cdl_d2.prediction.archive import predict_archive
from cdl_d2.prediction.reading import SourceReader, size_warning


@pytest.fixture(scope="module")
def stream(codec):
    return codec.compress(torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)))


def reader(codec, short_edge, domain="latent"):
    coded_input = CodedInput(domain, None if domain == "image" else codec)
    return SourceReader(coded_input, Variant(short_edge).apply)


@pytest.mark.parametrize(("short_edge", "is_other"), [(0, False), (62, False), (96, True)])
@pytest.mark.parametrize("domain", ["latent", "reconstruction", "image"])
def test_another_size_is_a_warning_unless_the_model_resizes(
    codec, stream, short_edge, is_other, domain
):
    warning = size_warning(reader(codec, short_edge, domain), {"photo": stream})
    assert bool(warning) == (is_other and domain != "image")
    assert not warning or ("photo" in warning and "64 x 96" in warning and "96 x 144" in warning)


def test_a_file_that_was_resized_for_the_model_is_none(codec, stream):
    resized = replace(stream, original_size=(640, 960))
    assert not size_warning(reader(codec, 64), {"photo": resized})
    assert size_warning(reader(codec, 0), {"photo": resized})


def test_images_and_unreadable_files_are_left_out(codec, stream, images, tmp_path):
    (tmp_path / "cut.cdlz").write_bytes(b"cut")
    sources = {"image": images / "0.png", "cut": tmp_path / "cut.cdlz"}
    assert not size_warning(reader(codec, 96), sources)
    assert "1 of 1" in size_warning(reader(codec, 96), sources | {"photo": stream})


def test_a_run_warns_once_and_a_finished_one_does_not(latent_model, coded, tmp_path):
    lines = []
    arguments = (str(latent_model), "cpu", None, "float32"), [str(coded)], tmp_path / "out"
    predict_archive(*arguments, report=lines.append)  # one file of five is small for the model
    assert len(lines) == 1 and "1.cdlz" in lines[0]
    predict_archive(*arguments, report=lines.append)
    assert len(lines) == 1
