from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import Bitstream, BitstreamError
from cdl_d2.codec.bitstream.layers import (
    Layers,
    channel_mask,
    compress_layers,
    decompress_base,
    decompress_layers,
)
from tests.conftest import small_codec

SELECTIONS = [range(0, 192, 3), [7], range(192), []]


def photo(height=100, width=130):
    torch.manual_seed(0)
    smooth = torch.rand(1, 3, 9, 11)
    image = torch.nn.functional.interpolate(smooth, (height, width), mode="bicubic")
    return (image + 0.05 * torch.randn_like(image)).clamp(0, 1)[0]


def through_files(layers: Layers) -> Layers:
    return Layers(*(Bitstream.from_bytes(s.to_bytes()) for s in (layers.base, layers.enhancement)))


@pytest.mark.parametrize("channels", SELECTIONS, ids=len)
def test_both_layers_give_the_latent_bit_for_bit(codec, channels):
    whole = codec.decompress(codec.compress(photo()))
    layers = through_files(compress_layers(codec, photo(), channels))
    latent = decompress_layers(codec, layers.base, layers.enhancement)
    assert torch.equal(latent.y_hat, whole.y_hat)
    assert latent.total_bits == pytest.approx(whole.total_bits)
    assert torch.equal(codec.decode(latent), codec.decode(whole))


@pytest.mark.parametrize("name", ["mbt2018-mean", "mbt2018-mean-vbr"])
def test_a_codec_that_predicts_means_can_be_layered(name):
    codec = small_codec(name)
    whole = codec.encode(photo())
    channels = range(0, codec.latent_channels, 2)
    layers = through_files(compress_layers(codec, photo(), channels))
    assert torch.equal(decompress_layers(codec, layers.base, layers.enhancement).y_hat, whole.y_hat)
    latent, mask = decompress_base(codec, layers.base)
    assert torch.equal(latent.y_hat[mask], whole.y_hat[mask])


@pytest.mark.parametrize("channels", SELECTIONS[:2], ids=len)
def test_the_base_layer_has_the_selected_channels_and_zeros(codec, channels):
    whole = codec.encode(photo())
    layers = compress_layers(codec, photo(), channels)
    latent, mask = decompress_base(codec, layers.base)
    assert mask.nonzero()[:, 0].tolist() == list(channels)
    assert torch.equal(latent.y_hat[mask], whole.y_hat[mask])
    assert not latent.y_hat[~mask].any()


def test_dropped_channels_save_their_bits(codec):
    """The file shrinks by the dropped channels' estimated bits, less 2 percent."""
    image = photo(256, 320)
    full = codec.compress(image)
    with torch.no_grad():
        bits = codec.cpu_coder.bits(codec.read_symbols(full))[0].sum((1, 2))
    for channels in (range(64), range(0, 192, 6), range(100, 116)):
        mask = channel_mask(192, channels)
        selected = compress_layers(codec, image, channels).base
        saved = 8 * (len(full.to_bytes()) - len(selected.to_bytes()))
        assert saved >= 0.98 * float(bits[~mask].sum())


def test_a_missing_enhancement_layer_is_named(codec):
    layers = compress_layers(codec, photo(), range(32))
    with pytest.raises(BitstreamError, match="has 32 of 192 channels"):
        decompress_layers(codec, layers.base, None)
    for layer in (layers.base, layers.enhancement):
        with pytest.raises(BitstreamError, match="one of two layers"):
            codec.decompress(layer)


def test_layers_of_different_images_do_not_go_together(codec):
    first = compress_layers(codec, photo(), range(32))
    other = compress_layers(codec, 1 - photo(), range(32))
    narrow = compress_layers(codec, photo(), range(31))
    with pytest.raises(BitstreamError, match="different images"):
        decompress_layers(codec, first.base, other.enhancement)
    with pytest.raises(BitstreamError, match="other channels"):
        decompress_layers(codec, first.base, narrow.enhancement)
    with pytest.raises(BitstreamError, match="expected a stream of coding 'base'"):
        decompress_base(codec, codec.compress(photo()))


@pytest.mark.parametrize("channels", [[192], [-1], [3, 3]])
def test_a_selection_that_does_not_fit_is_named(codec, channels):
    with pytest.raises(ValueError, match=f"channel {channels[-1]} is given twice or is not one"):
        compress_layers(codec, photo(), channels)


def test_a_context_model_cannot_be_layered():
    with pytest.raises(ValueError, match="cannot be coded in layers"):
        compress_layers(small_codec("mbt2018"), photo(), [0])


def test_an_enhancement_layer_without_its_channels_is_rejected(codec):
    layers = compress_layers(codec, photo(), range(32))
    cut = replace(layers.enhancement, strings=layers.enhancement.strings[:1])
    with pytest.raises(BitstreamError, match="has 2 strings, not 1"):
        decompress_layers(codec, layers.base, cut)


def test_a_mask_of_another_codec_is_rejected(codec):
    stream = compress_layers(codec, photo(), range(32)).base
    wrong = replace(stream, strings=(stream.strings[0][:4], *stream.strings[1:]))
    with pytest.raises(BitstreamError, match="mask of 4 bytes does not fit 192 channels"):
        decompress_base(codec, wrong)


def test_layers_keep_padding_and_original_size_and_have_no_scales(codec):
    layers = compress_layers(codec, photo(), range(60)).resized_from((300, 390))
    moved = Layers(*(replace(s, padding=(20, 11)) for s in (layers.base, layers.enhancement)))
    received = through_files(moved)
    assert received == moved and received.base.result_size == (300, 390)
    for latent in (
        decompress_layers(codec, received.base, received.enhancement),
        decompress_base(codec, received.base)[0],
    ):
        assert latent.padding == (20, 11) and latent.scales_hat is None
