"""The layered representation: spatial channels and a global vector, each a stream of its own."""

from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import Bitstream, BitstreamError, Codec
from cdl_d2.codec.bitstream.layers import (
    Layers,
    compress_layers,
    decompress_base,
    decompress_layers,
)
from cdl_d2.codec.bitstream.stream import enhancement_paths
from cdl_d2.codec.coded_files import decompress_file
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.nn.input.coded_input import CodedInput
from tests import warm
from tests.codec.conftest import IMAGE
from tests.conftest import small_codec

M, G = 192, 16
SPATIAL, GLOBAL = range(M), range(M, M + G)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return small_codec("zhang2022-layered")


def through_files(layers: Layers) -> Layers:
    return Layers(*(Bitstream.from_bytes(s.to_bytes()) for s in (layers.base, layers.enhancement)))


def test_the_global_vector_stands_behind_the_spatial_channels_as_constant_planes(codec):
    y_hat = codec.encode(IMAGE).y_hat
    planes = y_hat[M:]
    assert codec.latent_channels == len(y_hat) == M + G
    assert torch.equal(planes, planes[:, :1, :1].expand_as(planes)) and planes.any()
    assert y_hat[:M].flatten(1).std(1).max() > 0


def test_the_bits_of_the_global_vector_are_those_of_its_channels(codec):
    latent, stream = codec.encode(IMAGE), codec.compress(IMAGE)
    assert len(stream.strings) == 3
    assert latent.total_bits == pytest.approx(float(latent.channel_bits.sum()) + latent.side_bits)
    in_file = 8 * len(stream.strings[2])
    end = 64 + 32  # the coder's state, and what fills a word of 4 bytes
    assert float(latent.channel_bits[M:].sum()) == pytest.approx(in_file, abs=end)


@pytest.mark.parametrize("first", [SPATIAL, GLOBAL, [0, M], []], ids=["y", "g", "both", "none"])
def test_two_layers_give_the_latent_and_the_image_bit_for_bit(codec, first):
    whole = codec.decompress(codec.compress(IMAGE))
    layers = through_files(compress_layers(codec, IMAGE, first))
    latent = decompress_layers(codec, layers.base, layers.enhancement)
    assert torch.equal(latent.y_hat, whole.y_hat)
    assert latent.total_bits == pytest.approx(whole.total_bits)
    assert torch.equal(codec.decode(latent), codec.decode(whole))


@pytest.mark.parametrize(("first", "other"), [(SPATIAL, GLOBAL), (GLOBAL, SPATIAL)])
def test_either_stream_is_read_without_the_other(codec, first, other):
    whole, layers = (
        codec.encode(IMAGE),
        compress_layers(codec, IMAGE, first, with_enhancement=False),
    )
    latent, mask = decompress_base(codec, layers.base)
    assert mask.nonzero()[:, 0].tolist() == list(first)
    assert torch.equal(latent.y_hat[first], whole.y_hat[first])
    assert not latent.y_hat[other].any()
    item = CodedInput("latent", codec, with_scales=True).read(layers.base)
    assert torch.equal(item["latent"], latent.cells)
    assert item["bits"] == 8 * len(layers.base.to_bytes())


def test_the_global_stream_alone_costs_the_global_vector_alone(codec):
    """No hyperprior is in it, and none is counted."""
    latent, stream = codec.encode(IMAGE), compress_layers(codec, IMAGE, GLOBAL).base
    alone, _ = decompress_base(codec, stream)
    assert alone.total_bits == pytest.approx(float(latent.channel_bits[M:].sum()))
    assert len(stream.to_bytes()) < 128 < len(codec.compress(IMAGE).to_bytes()) / 4


def test_a_stream_of_other_strings_is_an_error(codec):
    layers = compress_layers(codec, IMAGE, GLOBAL)
    short = replace(layers.enhancement, strings=layers.enhancement.strings[:-1])
    with pytest.raises(BitstreamError, match="strings"):
        decompress_layers(codec, layers.base, short)
    with pytest.raises(BitstreamError, match="strings"):
        codec.decompress(replace(codec.compress(IMAGE), strings=(b"", b"")))


@pytest.mark.parametrize("first", [SPATIAL, GLOBAL])
def test_empty_strings_are_an_error(codec, first):
    layers = compress_layers(codec, IMAGE, first)
    hollow = [
        replace(layer, strings=(layer.strings[0], *[b""] * len(layer.strings[1:])))
        for layer in (layers.base, layers.enhancement)
    ]
    for base, enhancement in ((hollow[0], layers.enhancement), (layers.base, hollow[1])):
        with pytest.raises(BitstreamError, match=r"other symbols|different images"):
            decompress_layers(codec, base, enhancement)


def test_another_process_reads_the_files_exactly(codec, server, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, codec.network, {})
    codec.compress(IMAGE).save(tmp_path / "whole.cdlz")
    layers = compress_layers(codec, IMAGE, GLOBAL)
    layers.base.save(tmp_path / "split.cdlz")
    layers.enhancement.save(enhancement_paths(tmp_path / "split.cdlz")[0])
    code = (
        "import sys, torch; from pathlib import Path; torch.set_num_threads(2);"
        "from cdl_d2.codec.coded_files import decompress_file;"
        "[decompress_file(Path(n), Path(n).with_suffix('.png'), sys.argv[1], 'cpu')"
        " for n in sys.argv[2:]]"
    )
    names = [str(tmp_path / f"{name}.cdlz") for name in ("whole", "split")]
    warm.script(server, code, weights, *names)
    decompress_file(tmp_path / "whole.cdlz", tmp_path / "here.png", str(weights), "cpu")
    here = (tmp_path / "here.png").read_bytes()
    assert (tmp_path / "whole.png").read_bytes() == here == (tmp_path / "split.png").read_bytes()
