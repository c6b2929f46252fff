import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodedInput, LatentInput
from cdl_d2.seeds import seeded
from tests.conftest import small_codec

IMAGE = torch.arange(3 * 40 * 70).reshape(3, 40, 70) % 256


def test_a_sample_gets_what_its_network_reads_under_the_name_of_the_domain(codec):
    rgb = IMAGE.float() / 255
    for domain, expected in (
        ("latent", codec.encode(rgb).cells),
        ("reconstruction", (codec.decode(codec.encode(rgb)) * 255).round()),
        ("image", IMAGE),
    ):
        coded_input = CodedInput(domain, None if domain == "image" else codec)
        assert torch.equal(coded_input.encode({"image": IMAGE})[domain], expected)


def test_channels_of_the_other_order_give_the_same_latent_and_keep_their_order(codec):
    samples = {"RGB": {"image": IMAGE}, "BGR": {"image": IMAGE.flip(0)}}
    latents = [CodedInput("latent", codec, o).encode(i)["latent"] for o, i in samples.items()]
    assert torch.equal(*latents)
    decoded = [
        CodedInput("reconstruction", codec, o).encode(i)["reconstruction"]
        for o, i in samples.items()
    ]
    assert torch.equal(decoded[0], decoded[1].flip(0))


def test_an_encoded_sample_is_left_alone_and_one_of_another_codec_rejected(codec):
    coded_input = CodedInput("latent", codec, with_scales=True)
    sample = coded_input.encode({"image": IMAGE})
    assert coded_input.encode(sample) is sample
    with pytest.raises(ValueError, match="somebody"):
        coded_input.encode(sample | {"codec_identity": "somebody"})
    with pytest.raises(ValueError, match="neither 'latent' nor 'image'"):
        coded_input.encode({"label": 1})


def test_a_bitstream_gives_the_item_that_its_image_gives(codec):
    for domain in ("latent", "reconstruction"):
        coded_input = CodedInput(domain, codec, "BGR", with_scales=domain == "latent")
        encoded = coded_input.encode({"image": IMAGE})
        read = coded_input.read(codec.compress(coded_input.swap(IMAGE.float() / 255)))
        for key in read.keys() & {"latent", "reconstruction", "scales"}:
            assert torch.equal(read[key], encoded[key])
        assert read["image_size"] == (40, 70) and domain in read
        assert (read["height"], read["width"]) == (40, 70)


def test_a_sample_of_a_resized_image_asks_for_results_in_pixels_of_the_original(codec):
    stream = replace(codec.compress(IMAGE.float() / 255), original_size=(81, 140))
    read = CodedInput("latent", codec).read(stream)
    assert read["image_size"] == (40, 70) and (read["height"], read["width"]) == (81, 140)


@pytest.mark.parametrize("domain", ["latent", "image"])
def test_a_batch_is_padded_to_whole_multiples_with_zeros_and_sizes_stay_in_pixels(codec, domain):
    coded_input = CodedInput(domain, codec if domain == "latent" else None)
    sizes = [(40, 70), (33, 20)]
    samples = [coded_input.encode({"image": torch.full((3, *size), 9)}) for size in sizes]
    batch, batch_sizes = coded_input.batch(samples, "cpu", 32, lambda pixels: pixels + 1.0)
    assert batch_sizes == sizes and coded_input.padded_size(batch) == (64, 96)
    assert batch.shape[2:] == (64 // coded_input.stride, 96 // coded_input.stride)
    rows, columns = (-(-side // coded_input.stride) for side in sizes[1])
    assert not batch[1, :, rows:].any() and not batch[1, :, :, columns:].any()
    assert domain == "latent" or (batch[1, :, :rows, :columns] == 10).all()


@pytest.mark.parametrize(
    ("domain", "with_codec"), [("pixels", True), ("latent", False), ("image", True)]
)
def test_a_domain_that_does_not_fit_its_codec_is_named(codec, domain, with_codec):
    with pytest.raises(ValueError, match=f"domain '{domain}'"):
        CodedInput(domain, codec if with_codec else None)


@pytest.fixture(scope="module")
def several():
    """Return the input of a network of all qualities of the tiny codec; images at quality 1."""
    first, *further = (Codec.load("tiny-bmshj2018-hyperprior", quality) for quality in (1, 0, 2))
    return CodedInput("latent", first, others=tuple(further))


def test_a_quality_is_sampled_in_training_only_and_follows_from_the_seed(several):
    def qualities(seed):
        with seeded(seed):
            samples = [several.encode({"image": IMAGE}, training=True) for _ in range(8)]
        for sample in samples:
            codec = several.find_codec(sample["codec_identity"])
            assert torch.equal(sample["latent"], codec.encode(IMAGE.float() / 255).cells)
        return [sample["codec_identity"].quality for sample in samples]

    assert qualities(3) == qualities(3) != qualities(4)
    assert {*qualities(3)} | {*qualities(4)} == {0, 1, 2}
    assert several.encode({"image": IMAGE})["codec_identity"].quality == 1


def test_a_network_of_several_qualities_reads_the_files_of_each_and_of_no_other(several):
    for codec in several.codecs:
        sample = several.read(codec.compress(IMAGE.float() / 255))
        assert sample["codec_identity"] == codec.identity
        assert torch.equal(sample["latent"], codec.encode(IMAGE.float() / 255).cells)
        assert several.encode(sample) is sample
    alone = CodedInput("latent", several.codec)
    with pytest.raises(ValueError, match=r"the stream was made by .* quality 2"):
        alone.read(several.codecs[2].compress(IMAGE.float() / 255))
    with pytest.raises(ValueError, match=r"this model reads .* quality 1"):
        alone.encode(several.read(several.codecs[2].compress(IMAGE.float() / 255)))


def test_a_network_says_in_its_state_which_qualities_it_reads(several):
    network = LatentInput(192, several.codec.identity)
    several.stamp(network)
    assert network.identities == several.identities
    coded_input = replace(several, domain="reconstruction")
    decoding = nn.Module()
    coded_input.stamp(decoding)
    assert decoding.codec_stamp.identities == several.identities


def test_qualities_of_several_widths_are_rejected(codec):
    with pytest.raises(ValueError, match=r"\[32, 192\] channels"):
        CodedInput("latent", codec, others=(small_codec("cheng2020-anchor"),))


def test_codecs_stay_where_they_are_and_are_known_again_after_a_pickle():
    codec = small_codec("bmshj2018-factorized")
    coded_input = CodedInput("latent", codec, others=[small_codec("bmshj2018-factorized")])
    assert coded_input.codec_on("cpu") is codec and coded_input.on_cpu().codec is codec
    read = pickle.loads(pickle.dumps(coded_input))
    assert read.identities == coded_input.identities
    image = {"image": IMAGE}
    assert torch.equal(read.encode(image)["latent"], coded_input.encode(image)["latent"])


def test_scales_of_a_codec_that_predicts_none_are_rejected_at_once():
    with pytest.raises(CdlError, match="predicts no scales"):
        CodedInput("latent", small_codec("bmshj2018-factorized"), with_scales=True)


@pytest.mark.parametrize("domain", ["latent", "reconstruction", "image"])
@pytest.mark.parametrize("training", [True, False])
def test_images_in_0_to_1_are_rejected_and_dark_ones_are_not(codec, domain, training):
    coded_input = CodedInput(domain, None if domain == "image" else codec)
    unit = torch.rand(3, 32, 32)
    with pytest.raises(CdlError, match="expected 0 to 255: multiply"):
        coded_input.encode({"image": unit}, training=training)
    for dark in (torch.zeros(3, 32, 32), unit.round(), unit.round().byte()):
        assert domain in coded_input.encode({"image": dark}, training=training)


def test_an_image_that_cannot_be_pixels_is_rejected_with_what_is_expected(codec):
    coded_input = CodedInput("latent", codec)
    normalized = torch.linspace(-2, 2, 3 * 32 * 32).view(3, 32, 32)
    for image in (normalized, torch.full((3, 32, 32), float("nan")), normalized.int() * 200):
        with pytest.raises(CdlError, match="expected 0 to 255"):
            coded_input.encode({"image": image})
    with pytest.raises(CdlError, match="ndarray, not a tensor"):
        coded_input.encode({"image": IMAGE.byte().permute(1, 2, 0).numpy()})


def test_a_stream_without_a_fingerprint_is_read_at_the_quality_that_it_says():
    first = small_codec("bmshj2018-hyperprior")
    second = Codec(first.network, first.name, 2, "mse", "dequantized")
    coded_input = CodedInput("latent", first, others=[second])
    stream = second.compress(IMAGE.float() / 255)
    stream = replace(stream, codec=replace(stream.codec, weights=""))
    with pytest.warns(UserWarning, match="files of CompressAI"):
        sample = coded_input.read(stream)
    assert sample["codec_identity"] == second.identity
