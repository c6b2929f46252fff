"""Images that were padded above and to the left before coding, as CompressAI's tools do."""

import pytest
import torch
from compressai.ops import compute_padding

from cdl_d2.codec.io.image_files import read_image
from cdl_d2.errors import MisalignedImageError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.packaged import SAMPLES
from tests.codec.conftest import compressai_stream


def centred_stream(codec, height, width):
    """The bitstream of a photo that is padded equally on all sides, and the photo in [0, 1]."""
    photo = read_image(SAMPLES / "nuclei/images/val_0001.png")[:, :height, :width].float() / 255
    padding, _ = compute_padding(height, width, min_div=64)
    return compressai_stream(codec, photo, padding), photo


def test_a_latent_that_begins_on_a_whole_position_is_read(codec):
    stream, _ = centred_stream(codec, 96, 128)
    assert stream.padding == (16, 0)
    item = CodedInput("latent", codec).read(stream)
    assert torch.equal(item["latent"], codec.decompress(stream).y_hat[:, 1:7])
    assert item["image_size"] == (96, 128) and item["latent"].shape[1:] == (6, 8)


@pytest.mark.filterwarnings("ignore:files of CompressAI")
def test_any_other_has_its_pixels_only(codec):
    stream, photo = centred_stream(codec, 100, 90)
    assert stream.padding == (14, 19)
    item = CodedInput("reconstruction", codec).read(stream)
    assert (item["reconstruction"] / 255 - photo).abs().mean() < 0.05
    with pytest.raises(MisalignedImageError, match=r"14 .* 19 .* multiples of 16"):
        CodedInput("latent", codec).read(stream)
