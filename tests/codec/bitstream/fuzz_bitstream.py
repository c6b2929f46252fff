"""Feed damaged and hostile bitstreams to the decoder: each must end in a BitstreamError.

A crash of the range coder ends the process, so that the exit status says what happened:
    python -m tests.codec.bitstream.fuzz_bitstream --files 100000
"""

import argparse
import dataclasses
import struct
import time
import zlib
from functools import cache

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdl_d2.codec import Bitstream, BitstreamError
from cdl_d2.codec.bitstream.layers import compress_layers, decompress_layers, decompress_selected
from cdl_d2.codec.bitstream.stream import REST, SELECTED
from tests.conftest import small_codec

CODECS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018")
LAYERED = ("bmshj2018-hyperprior", "mbt2018-mean")
HEADER = 46  # bytes before the table of strings


@cache
def codec_of(name):
    return small_codec(name)


@cache
def genuine_stream(name):
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(3))
    return codec_of(name).compress(image)


@cache
def genuine_layers(name):
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(3))
    return compress_layers(codec_of(name), image, range(0, 32, 3))


@st.composite
def mutations(draw, content: bytes):
    """The content with bytes changed, cut out, put in, or repeated."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["bit", "bytes", "cut", "insert", "repeat", "truncate"]))
        if kind == "bit" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "truncate":
            del content[place:]
        elif kind == "repeat":
            content[place:place] = content[place : place + 20] * draw(st.integers(1, 8))
        else:
            new = draw(st.binary(max_size=24) | st.sampled_from([b"\xff" * 40, b"\0" * 40]))
            content[place : place + (len(new) if kind == "bytes" else 0)] = new
    return bytes(content)


@st.composite
def damaged_files(draw):
    """The name of a codec, and a file: damaged anywhere, or with checksums that fit the damage."""
    name = draw(st.sampled_from(CODECS))
    streams = [genuine_stream(name)]
    if name in LAYERED:
        streams += [genuine_layers(name).selected, genuine_layers(name).rest]
    stream = draw(st.sampled_from(streams))
    kind = draw(st.sampled_from(["anywhere", "header", "strings", "strings"]))
    if kind == "anywhere":
        return name, draw(mutations(stream.to_bytes()))
    if kind == "strings":
        strings = tuple(draw(mutations(s)) if draw(st.booleans()) else s for s in stream.strings)
        checksum = draw(st.sampled_from([stream.checksum, None]))
        coding = draw(st.sampled_from([stream.coding, "exact", "compressai"]))
        floor = draw(st.sampled_from([stream.scale_floor, 0, 31]))
        forged = dataclasses.replace(
            stream, strings=strings, checksum=checksum, coding=coding, scale_floor=floor
        )
        return name, forged.to_bytes()
    padding = draw(st.sampled_from([(0, 0), (12, 2)]))
    content = dataclasses.replace(stream, padding=padding).to_bytes()
    table = HEADER + 2 * any(padding) + 8 * len(stream.strings)
    head = bytearray(content[:table])
    for _ in range(draw(st.integers(1, 3))):
        head[draw(st.integers(0, table - 1))] = draw(st.integers(0, 255))
    return name, bytes(head) + struct.pack("<I", zlib.crc32(head)) + content[table + 4 :]


def check(example: tuple[str, bytes]) -> bool:
    """Decode a file; whether it was refused. Anything but a BitstreamError passes through."""
    name, content = example
    try:
        stream = Bitstream.from_bytes(content, max_pixels=2**20)
        if stream.coding == SELECTED and name in LAYERED:
            received = decompress_selected(codec_of(name), stream)[0]
        elif stream.coding == REST and name in LAYERED:
            received = decompress_layers(codec_of(name), genuine_layers(name).selected, stream)
        else:
            received = codec_of(name).read_symbols(stream)
    except BitstreamError:
        return True
    assert torch.isfinite(received.y_hat).all()
    return False


def fuzz(files: int) -> None:
    """Check so many files; prints how many were refused."""
    counts = {True: 0, False: 0}
    start = time.monotonic()

    @settings(
        max_examples=files, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damaged_files())
    def run(example):
        counts[check(example)] += 1
        done = sum(counts.values())
        if done % 5000 == 0:
            seconds = time.monotonic() - start
            print(f"{done} files in {seconds:.0f} s, {counts[True]} refused", flush=True)

    run()
    print(
        f"{sum(counts.values())} files: {counts[True]} refused, {counts[False]} decoded, no crash"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    torch.set_num_threads(1)
    fuzz(parser.parse_args().files)
