"""Files that earlier versions wrote, and the numbers in them, byte for byte."""

import struct
import zlib
from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import Bitstream, BitstreamError
from cdl_d2.codec.latent import MAX_PIXELS
from cdl_d2.codec.registry import WIRE_NAMES

HEAD = bytes.fromhex("43444c5a01070200fd634a89f669e11051021e00000014000000400000004000000065a1412a")
TABLE = bytes.fromhex("240100006d27e4420c0000008ddb0492")  # of the strings
PADDED_HEAD = HEAD[:4] + b"\x02" + HEAD[5:] + bytes([3, 5])
STRINGS = bytes.fromhex(
    "803def5904000000134d3cca182cd99e0f08fd43f3a76a066826ba1b4485b3c71c0b7ce5bdfff2bb3a042117c3"
    "0a809dfc1775bd32b6da4b0021299152c65035ef119c22b0fa962c0c77a3db543f09ca08f95853ebb1748c115b"
    "ce6f2bfe426e9b02dbd732a2ee4527bf6aa78680494ac0ee710060cddd51e56dee2d45bf39929345edefe9ee14"
    "37b1b690bb079866a4d468bb8da0668268f2da463033291d2b6b0810945d3ac14746528d6c0702c3ef2b028e1d"
    "6b5b36ce75356219b1895d7acb86860f540437e646b94dd1bc9c5a39967d2c330b98eb54f8d61a418719e821c9"
    "5e02f0b473ae06b8716be47de55192c3b2c9c1f9e904361f5d0de103f8eba37d3115e6c7f2dc0cebffc2cc22d0"
    "e8f3d31a660a0d2784d05f66784cea893dee6fd51fceba315ec5d6820000204b7a10"
)
NAMES = [
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
    "tiny-bmshj2018-factorized",
    "tiny-bmshj2018-hyperprior",
    "tiny-mbt2018-mean",
    "tiny-mbt2018",
    "tiny-cheng2020-anchor",
    "tiny-cheng2020-attn",
    "zhang2022",
    "zhang2022-layered",
    "tiny-zhang2022",
    "tiny-zhang2022-layered",
    "bmshj2018-hyperprior-vbr",
    "mbt2018-mean-vbr",
    "mbt2018-vbr",
    "tiny-bmshj2018-hyperprior-vbr",
    "tiny-mbt2018-mean-vbr",
    "tiny-mbt2018-vbr",
]


def file_of(head):
    return head + TABLE + struct.pack("<I", zlib.crc32(head + TABLE)) + STRINGS


def written_image():
    """The image that the golden files are of, 3 x 30 x 20."""
    ramp = torch.arange(30)[:, None] * 20 + torch.arange(20)
    return (ramp.remainder(256).float() / 255).expand(3, -1, -1).contiguous()


@pytest.mark.parametrize(("head", "padding"), [(HEAD, (0, 0)), (PADDED_HEAD, (3, 5))])
def test_files_of_versions_1_and_2_are_read_and_written_as_ever(codec, head, padding):
    stream = Bitstream.from_bytes(file_of(head))
    assert stream.to_bytes() == file_of(head)
    assert (stream.image_size, stream.padding) == ((30, 20), padding)
    assert stream.original_size is None and stream.result_size == (30, 20)
    assert stream.codec == codec.identity
    assert torch.equal(codec.decompress(stream).y_hat, codec.encode(written_image()).y_hat)
    if not any(padding):
        assert codec.compress(written_image()).to_bytes() == file_of(head)


@pytest.mark.parametrize("padding", [(0, 0), (3, 5)])
def test_only_a_resized_image_takes_the_place_of_its_original_size(padding):
    plain = replace(Bitstream.from_bytes(file_of(HEAD)), padding=padding)
    resized = replace(plain, original_size=(300, 199))
    content = resized.to_bytes()
    assert content[4] == 3 and len(content) == len(plain.to_bytes()) + 8 + 2 * (not any(padding))
    received = Bitstream.from_bytes(content)
    assert received == resized and received.result_size == (300, 199)
    assert replace(plain, original_size=plain.image_size).to_bytes() == plain.to_bytes()


@pytest.mark.parametrize("size", [(0, 20), (20, MAX_PIXELS)])
def test_an_impossible_original_size_is_neither_written_nor_read(size):
    stream = replace(Bitstream.from_bytes(file_of(HEAD)), original_size=(30, 21))
    content = bytearray(stream.to_bytes())
    with pytest.raises(ValueError, match="is not between 1 and"):
        replace(stream, original_size=size).to_bytes()
    struct.pack_into("<II", content, 40, *size)
    struct.pack_into("<I", content, 64, zlib.crc32(content[:64]))
    with pytest.raises(BitstreamError, match="is not between 1 and"):
        Bitstream.from_bytes(bytes(content))


def test_every_codec_has_the_number_that_it_always_had():
    assert [WIRE_NAMES[number] for number in range(len(NAMES))] == NAMES
    for number, name in enumerate(NAMES):
        head = HEAD[:5] + bytes([number]) + HEAD[6:]
        stream = Bitstream.from_bytes(file_of(head))
        assert stream.codec.name == name and stream.to_bytes() == file_of(head)


def test_a_codec_without_a_number_is_written_by_its_name():
    before = Bitstream.from_bytes(file_of(HEAD))
    new = replace(before, codec=replace(before.codec, name="a-new-one"))
    assert Bitstream.from_bytes(new.to_bytes()) == new
    assert new.to_bytes()[5] == 255
