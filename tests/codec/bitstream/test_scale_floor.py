"""The scale floor: channels of zeros with small scales are not in the string of y."""

from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import Bitstream, BitstreamError
from cdl_d2.codec.entropy.hyperprior_coder import MAX_SCALE_FLOOR
from tests.codec.conftest import IMAGE
from tests.conftest import small_codec

FLAT = torch.full((3, 100, 130), 0.5)
SMOOTH = torch.linspace(0, 1, 192).expand(3, 128, 192)
NOISE = torch.rand(3, 200, 130, generator=torch.Generator().manual_seed(2))
IMAGES = {"flat": FLAT, "smooth": SMOOTH, "noise": NOISE}


def old_stream(codec, image) -> Bitstream:
    """Return a stream of version 0.1.0, with all channels in the string of y."""
    quantized = codec.quantize(image)
    return Bitstream(
        codec=codec.identity,
        image_size=tuple(image.shape[1:]),
        strings=tuple(codec.cpu_coder.encode(quantized)),
        checksum=quantized.checksum,
    )


def through_file(stream: Bitstream) -> Bitstream:
    return Bitstream.from_bytes(stream.to_bytes())


def dropped_channels(codec, stream) -> torch.Tensor:
    """Return a mask of the channels that are not in the string of y."""
    scales = codec.read_symbols(stream).scales_hat
    return codec.cpu_coder._top_rows(scales) < stream.scale_floor


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_a_stream_with_a_floor_holds_the_symbols_of_one_without(codec, image):
    old, new = old_stream(codec, image), codec.compress(image)
    expected, decoded = (codec.read_symbols(through_file(stream)) for stream in (old, new))
    for name in ("y_hat", "y_symbols", "z_symbols", "scales_hat"):
        assert torch.equal(getattr(decoded, name), getattr(expected, name))
    assert decoded.checksum == expected.checksum == new.checksum


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_a_stream_with_a_floor_is_never_larger(codec, image):
    assert len(codec.compress(image).to_bytes()) <= len(old_stream(codec, image).to_bytes())


@pytest.mark.parametrize("image", [FLAT, SMOOTH], ids=["flat", "smooth"])
def test_most_channels_of_zeros_are_dropped(codec, image):
    stream = codec.compress(image)
    empty = ~codec.read_symbols(stream).y_symbols.flatten(1).any(1)
    dropped = dropped_channels(codec, stream)
    assert empty[dropped].all()
    assert dropped.sum() > 0.5 * empty.sum() > 40


def test_a_latent_of_zeros_has_an_empty_string():
    codec = small_codec("bmshj2018-hyperprior")  # untrained: all scales are small
    quantized, coder = codec.quantize(FLAT), codec.cpu_coder
    zeros = replace(quantized, y_symbols=torch.zeros_like(quantized.y_symbols))
    floor = coder.scale_floor(zeros)
    assert floor == MAX_SCALE_FLOOR
    strings = coder.encode(zeros, floor)
    assert strings[0] == b""
    with torch.no_grad():
        decoded = coder.decode(strings, zeros.y_symbols.shape[1:], scale_floor=floor)
    assert decoded.checksum == zeros.checksum


def test_without_channels_of_zeros_all_are_coded(codec):
    quantized, coder = codec.quantize(NOISE), codec.cpu_coder
    symbols = quantized.y_symbols.clone()
    symbols[:, 0, 0] = 1
    full = replace(quantized, y_symbols=symbols)
    floor = coder.scale_floor(full)
    assert floor == min(int(coder._top_rows(full.scales_hat).min()), MAX_SCALE_FLOOR)
    strings = coder.encode(full, floor)
    assert strings == coder.encode(full)
    with torch.no_grad():
        decoded = coder.decode(strings, symbols.shape[1:], scale_floor=floor)
    assert torch.equal(decoded.y_symbols, symbols)


def test_means_are_added_to_dropped_channels():
    codec = small_codec("mbt2018-mean")
    old, new = old_stream(codec, SMOOTH), codec.compress(SMOOTH)
    latents = [codec.decompress(through_file(stream)).y_hat for stream in (old, new)]
    assert torch.equal(*latents) and torch.equal(latents[0], codec.encode(SMOOTH).y_hat)


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018"])
def test_a_codec_with_dependent_channels_has_no_floor(name):
    codec = small_codec(name)
    stream = codec.compress(IMAGE)
    assert stream.scale_floor == 0
    with pytest.raises(BitstreamError, match=f"tiny-{name} has no scale floor"):
        codec.read_symbols(through_file(replace(stream, scale_floor=1)))


def test_another_floor_than_the_written_one_is_rejected(codec):
    stream = codec.compress(SMOOTH)
    dropped = dropped_channels(codec, stream)
    rows = codec.cpu_coder._top_rows(codec.read_symbols(stream).scales_hat)
    for floor in range(MAX_SCALE_FLOOR + 1):
        if torch.equal(rows < floor, dropped):
            continue  # the same channels
        with pytest.raises(BitstreamError, match="other symbols"):
            codec.read_symbols(through_file(replace(stream, scale_floor=floor)))
