"""One network at several rates, of which one is chosen when coding."""

import copy

import pytest
import torch

from cdl_d2.codec import Bitstream, BitstreamError, Codec, CodecChoice
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.codec.learning.training import CodecTraining
from cdl_d2.codec.networks import MAX_SIDE, zoo_url
from tests import warm
from tests.codec.conftest import IMAGE
from tests.conftest import VARIABLE_RATE, small_codec, small_network


@pytest.mark.parametrize("name", VARIABLE_RATE)
def test_every_rate_is_coded_exactly_and_a_higher_one_takes_more_bits(name):
    sizes, image = [], IMAGE[:, :64, :64]
    codecs = [small_codec(name).at_quality(quality) for quality in (2, 5, 8)]
    streams = [codec.compress(image) for codec in codecs]  # before any is read: tables differ
    for codec, stream in zip(codecs, streams, strict=True):
        latent = codec.encode(image)
        assert torch.equal(codec.decompress(stream).y_hat, latent.y_hat)
        sizes.append(len(stream.to_bytes()))
    assert sizes == sorted(set(sizes))
    assert codecs[0].network is codecs[1].network


@pytest.mark.parametrize("name", VARIABLE_RATE)
def test_scales_are_in_the_units_of_the_latent_at_every_rate(name):
    image = IMAGE[:, :64, :64]
    low, high = (
        small_codec(name).at_quality(quality).encode(image, with_scales=True, with_bits=False)
        for quality in (6, 8)
    )
    ratio = low.scales_hat.mean() / high.scales_hat.mean()
    assert 0.9 < ratio < 1.1  # the gains are apart by a factor of 2
    read = small_codec(name).at_quality(6)
    decoded = read.decompress(read.compress(image), with_scales=True)
    assert torch.equal(decoded.scales_hat, low.scales_hat)


def test_files_say_their_rate_and_no_other_rate_reads_them():
    codec = small_codec("mbt2018-mean-vbr").at_quality(3)
    stream = Bitstream.from_bytes(codec.compress(IMAGE).to_bytes())
    assert stream.codec == codec.identity and stream.codec.quality == 3
    with pytest.raises(BitstreamError, match=r"quality 3 .* this is .* quality 4"):
        codec.at_quality(4).decompress(stream)


READER = """
import sys
from cdl_d2.codec import Bitstream, CodecChoice
stream = Bitstream.load(sys.argv[1])
choice = CodecChoice(stream.codec.name, stream.codec.quality, weights=sys.argv[2])
print(choice.load().decompress(stream).y_hat.double().sum().item())
"""


def test_another_process_reads_a_file_at_the_rate_that_it_says(server, tmp_path):
    name, weights = "tiny-mbt2018-mean-vbr", tmp_path / "weights.safetensors"
    save_weights(weights, small_network("mbt2018-mean-vbr"), {})
    codec = CodecChoice(name, 6, weights=str(weights)).load()
    assert codec.identity == small_codec("mbt2018-mean-vbr").at_quality(6).identity
    assert CodecChoice(name, 2, weights=str(weights)).load().network is codec.network
    codec.compress(IMAGE).save(tmp_path / "image.cdlz")
    printed = warm.script(server, READER, tmp_path / "image.cdlz", weights)
    assert float(printed) == codec.encode(IMAGE).y_hat.double().sum().item() != 0


@pytest.mark.parametrize("name", VARIABLE_RATE)
def test_a_file_with_tables_as_compressai_writes_it_is_read(name, tmp_path):
    network = copy.deepcopy(small_network(name))
    network.update(force=True)
    assert max(network.gaussian_conditional.quantized_cdf.shape) > MAX_SIDE  # of no weights
    torch.save(network.state_dict(), tmp_path / "weights.pth.tar")
    codec = Codec.load(f"tiny-{name}", 3, weights=str(tmp_path / "weights.pth.tar"))
    assert codec.identity == small_codec(name).at_quality(3).identity


def test_what_a_codec_has_not_is_named():
    codec = small_codec("mbt2018-mean-vbr")
    for quality in (0, 9):
        with pytest.raises(ValueError, match=f"quality {quality} is not one of"):
            codec.at_quality(quality)
    with pytest.raises(ValueError, match="'rounded'"):
        small_codec("mbt2018-mean-vbr", "rounded")
    with pytest.raises(ValueError, match="has one rate"):
        small_codec("mbt2018-mean").at_quality(2)
    with pytest.raises(ValueError, match="several rates"):
        CodecTraining("mbt2018-mean-vbr", 1, "mse", 0.01, 1)


@pytest.mark.parametrize("name", VARIABLE_RATE)
def test_the_zoo_has_one_file_for_all_rates(name):
    assert zoo_url(name, 1, "mse") == zoo_url(name, 8, "mse")
    with pytest.raises(FileNotFoundError, match="no weights"):
        zoo_url(name, 1, "ms-ssim")


def test_untrained_networks_have_the_size_of_the_zoos():
    assert Codec.load("mbt2018-mean-vbr", 8, weights="untrained").latent_channels == 320
