import dataclasses
import struct
import zlib

import pytest
import torch
import torch.nn.functional as F
from compressai.ops import compute_padding

from cdl_d2.codec import Bitstream, BitstreamError, Codec
from cdl_d2.codec.entropy.autoregressive_coder import steps
from cdl_d2.errors import CdlError, MisalignedImageError
from tests.codec.conftest import IMAGE, WITH_CONTEXT, compressai_round_trip
from tests.conftest import (
    ARCHITECTURES,
    LAYERED,
    VARIABLE_RATE,
    loud_network,
    small_codec,
    small_network,
)

OVERHEAD = 58  # bytes of the header with two strings


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", [(1, 1), (65, 190)])
def test_a_file_holds_the_encoders_latent_exactly(name, size, tmp_path):
    codec, image = small_codec(name), torch.rand(3, *size)
    codec.compress(image).save(tmp_path / "image.cdlz")
    received = codec.decompress(Bitstream.load(tmp_path / "image.cdlz"), with_scales=True)
    encoded = codec.encode(image, with_scales=True)
    assert torch.equal(received.y_hat, encoded.y_hat)
    assert received.image_size == size and received.total_bits == encoded.total_bits
    if name != "bmshj2018-factorized":
        assert torch.equal(received.scales_hat, encoded.scales_hat)
    assert torch.equal(codec.decode(received), codec.decode(encoded))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - set(LAYERED)))
def test_compressais_strings_can_be_read(name):
    codec = small_codec(name)
    coded, expected = compressai_round_trip(name)
    stream = Bitstream.from_compressai(codec.identity, coded, (70, 90))
    if name in VARIABLE_RATE:
        with pytest.raises(BitstreamError, match=name):
            codec.decompress(stream)
        return
    assert torch.equal(codec.decode(codec.decompress(stream)), expected)


def test_centre_padding_is_cropped():
    codec, network = small_codec("bmshj2018-factorized"), small_network("bmshj2018-factorized")
    padding, unpadding = compute_padding(70, 90, min_div=64)
    with torch.no_grad():
        coded = network.compress(F.pad(IMAGE, padding)[None])
        expected = F.pad(network.decompress(**coded)["x_hat"], unpadding)[0]
    stream = Bitstream.from_compressai(codec.identity, coded, (70, 90), padding)
    received = Bitstream.from_bytes(stream.to_bytes())
    assert received == stream and received.padding == (29, 19)
    latent = codec.decompress(received)
    assert torch.equal(codec.decode(latent), expected)
    with pytest.raises(MisalignedImageError):
        _ = latent.cells


@pytest.mark.parametrize("padding", [(19, 19, 29, 28), (-1, 39, 0, 58), (19, 19, 29, 93)])
def test_a_padding_that_does_not_fit_is_rejected(padding):
    codec, (coded, _) = small_codec("mbt2018"), compressai_round_trip("mbt2018")
    with pytest.raises(CdlError, match="128, 128"):
        Bitstream.from_compressai(codec.identity, coded, (70, 90), padding)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {*WITH_CONTEXT, *LAYERED}))
def test_strings_are_those_of_compressai(name):
    coded, _ = compressai_round_trip(name)
    codec = small_codec(name)
    strings = codec.cpu_coder.encode(codec.quantize(IMAGE))  # of all channels
    assert strings == [s[0] for s in coded["strings"]]


def test_overhead_is_at_most_64_bytes(codec):
    stream = codec.compress(IMAGE)
    assert len(stream.to_bytes()) - sum(map(len, stream.strings)) == OVERHEAD <= 64


def test_another_reader_with_other_threads_reads_the_same_latent():
    stream = small_codec("mbt2018").compress(IMAGE)
    network = loud_network("tiny-mbt2018")  # with entropy tables of its own
    torch.set_num_threads(3)
    try:
        received = Codec(network, "tiny-mbt2018", 1, "mse", "dequantized").decompress(stream)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(received.y_hat, small_codec("mbt2018").encode(IMAGE).y_hat)


@pytest.mark.parametrize("size", [(4, 4), (8, 20), (20, 4)])
def test_a_wavefront_needs_only_what_earlier_steps_decoded(size):
    height, width = size
    done = torch.zeros(height, width, dtype=torch.bool)
    for where in steps(height, width, "exact"):
        for position in where.tolist():
            row, column = divmod(position, width)
            above = done[max(row - 2, 0) : row, max(column - 2, 0) : column + 3]
            left = done[row, max(column - 2, 0) : column]
            assert above.all() and left.all()
        done.view(-1)[where] = True
    assert done.all()


@pytest.fixture
def content(codec):
    return codec.compress(IMAGE).to_bytes()


@pytest.fixture
def padded_content(codec):
    return dataclasses.replace(codec.compress(IMAGE), padding=(29, 19)).to_bytes()


@pytest.fixture
def resized_content(codec):
    return dataclasses.replace(codec.compress(IMAGE), original_size=(140, 181)).to_bytes()


def test_only_an_image_that_is_padded_around_takes_two_bytes_more(content, padded_content):
    assert (content[4], padded_content[4]) == (1, 2)
    assert len(padded_content) == len(content) + 2


@pytest.mark.parametrize("file", ["content", "padded_content", "resized_content"])
def test_every_changed_byte_is_noticed(file, request):
    content = request.getfixturevalue(file)
    for place in range(len(content)):
        corrupted = bytearray(content)
        corrupted[place] ^= 1 << place % 8
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(bytes(corrupted))


@pytest.mark.parametrize("file", ["content", "padded_content", "resized_content"])
def test_every_truncation_is_noticed(file, request):
    content = request.getfixturevalue(file)
    for length in range(len(content)):
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(content[:length])
    with pytest.raises(BitstreamError, match="truncated or corrupted"):
        Bitstream.from_bytes(content + b"0")


def forged(content: bytes, place: int, form: str, *values) -> bytes:
    """The content with other header fields and a matching checksum."""
    head = bytearray(content[: OVERHEAD - 4])
    struct.pack_into(form, head, place, *values)
    return bytes(head) + struct.pack("<I", zlib.crc32(head)) + content[OVERHEAD:]


@pytest.mark.parametrize(
    ("place", "form", "values", "message"),
    [
        (4, "<B", (4,), "format version 4 is not one of 1..3"),
        (5, "<B", (99,), "codec number 99 is unknown"),
        (16, "<B", (7,), "coding number 7"),
        (16, "<B", (8,), "coding 'compressai' has no scale floor"),
        (16, "<B", (8 + 2,), "coding 'base' has no scale floor"),
        (18, "<IIII", (2**20, 2**20, 2**20, 2**20), "is not between 1 and"),
        (18, "<II", (0, 90), "is not between 1 and"),
        (18, "<II", (700, 900), "is not coded as"),
    ],
)
def test_an_impossible_header_is_named(content, place, form, values, message):
    with pytest.raises(BitstreamError, match=message):
        Bitstream.from_bytes(forged(content, place, form, *values))


def test_a_larger_image_than_allowed_is_rejected(content, monkeypatch):
    monkeypatch.setenv("CDL_MAX_PIXELS", str(128 * 128 - 1))
    with pytest.raises(BitstreamError, match="16383 pixels"):
        Bitstream.from_bytes(content)


def test_what_cannot_be_read_is_not_written(codec, content, monkeypatch):
    long = dataclasses.replace(Bitstream.from_bytes(content), image_size=(2, 2_100_000))
    with pytest.raises(CdlError, match="CDL_MAX_PIXELS"):
        long.to_bytes()
    monkeypatch.setenv("CDL_MAX_PIXELS", str(2**28))
    assert Bitstream.from_bytes(long.to_bytes()) == long


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_string_that_is_longer_than_its_symbols_can_be_is_rejected(name, place):
    codec = small_codec(name)
    genuine = codec.compress(IMAGE)
    strings = list(genuine.strings)
    strings[place] = bytes(20_000_000)
    with pytest.raises(BitstreamError, match="longer than"):
        codec.decompress(dataclasses.replace(genuine, strings=tuple(strings), scale_floor=0))


@pytest.mark.parametrize("checksum", [None, 0])
def test_a_stream_without_the_checksum_of_its_symbols_is_not_decoded(codec, content, checksum):
    stream = dataclasses.replace(Bitstream.from_bytes(content), checksum=checksum)
    for unchecked in (stream, Bitstream.from_bytes(stream.to_bytes())):
        with pytest.raises(BitstreamError, match="other symbols"):
            codec.decompress(unchecked)


def test_predictions_that_are_not_finite_are_seen(codec):
    quantized = codec.quantize(IMAGE)
    assert quantized.is_finite
    scales = quantized.scales_hat.clone()
    scales[0, 0, 0] = float("inf")
    assert not dataclasses.replace(quantized, scales_hat=scales).is_finite


@pytest.mark.parametrize("coding", ["compressai", "exact"])
@pytest.mark.parametrize(
    "name", ["bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018", *LAYERED]
)
def test_hostile_strings_with_valid_checksums_do_no_harm(name, coding):
    codec = small_codec(name)
    genuine = codec.compress(IMAGE[:, :60, :60])
    scale_floor = genuine.scale_floor if coding == "exact" else 0
    endings = [b"", b"\0" * 4, b"\xff" * 100, b"\0" * 100, torch.rand(50).numpy().tobytes()]
    for strings in ([end] * len(genuine.strings) for end in endings):
        hostile = dataclasses.replace(
            genuine, strings=tuple(strings), coding=coding, scale_floor=scale_floor
        )
        with pytest.raises(BitstreamError, match=r"decodes to|longer than"):
            codec.decompress(Bitstream.from_bytes(hostile.to_bytes()))


def test_a_stream_of_another_codec_is_rejected(codec):
    other = Codec.load("tiny-bmshj2018-hyperprior", 1)
    with pytest.raises(BitstreamError, match=r"made by .* quality 2 .*; this is .* quality 1"):
        other.decompress(codec.compress(IMAGE))


def test_a_stream_of_other_weights_is_rejected(codec):
    stream = dataclasses.replace(
        codec.compress(IMAGE), codec=dataclasses.replace(codec.identity, weights="0" * 16)
    )
    with pytest.raises(BitstreamError, match="weights 0000000000000000"):
        codec.decompress(Bitstream.from_bytes(stream.to_bytes()))


def test_rounded_latents_have_no_bitstream():
    with pytest.raises(ValueError, match="quantization 'dequantized'"):
        small_codec("mbt2018-mean", "rounded").compress(IMAGE)


def test_a_missing_file_and_a_corrupted_one_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no bitstream .*nowhere\.cdlz"):
        Bitstream.load(tmp_path / "nowhere.cdlz")
    (tmp_path / "text.cdlz").write_text("hello")
    with pytest.raises(BitstreamError, match=r"text\.cdlz: not a bitstream"):
        Bitstream.load(tmp_path / "text.cdlz")
