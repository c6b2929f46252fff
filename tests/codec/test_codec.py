import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.errors import CdlError
from tests.codec.conftest import IMAGE, WITH_CONTEXT, compressai_round_trip
from tests.conftest import ARCHITECTURES, GENERATIVE, LAYERED, VARIABLE_RATE, small_codec

WITH_MEANS = {"mbt2018-mean", "mbt2018-mean-vbr", *GENERATIVE, *WITH_CONTEXT}
OF_ONE_RATE = sorted(ARCHITECTURES.keys() - set(VARIABLE_RATE))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - set(LAYERED)))
def test_decoded_latent_is_what_a_receiver_of_the_bitstream_reconstructs(name):
    codec = small_codec(name)
    _, received = compressai_round_trip(name)
    latent = codec.encode(IMAGE)
    assert latent.y_hat.round().unique().numel() > 2
    # we predict means in float64, CompressAI in float32
    tolerance = 1e-4 if name in WITH_MEANS else 0
    assert torch.allclose(codec.decode(latent), received, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", sorted({*OF_ONE_RATE} - {"bmshj2018-factorized"}))
def test_rounded_latent_is_round_of_y(name):
    codec = small_codec(name, "rounded")
    with torch.no_grad():
        y = codec.network.g_a(pad_for_coding(IMAGE)[None])[0]
    spatial = slice(192 if name in LAYERED else None)
    assert torch.equal(codec.encode(IMAGE).y_hat[spatial], torch.round(y)[spatial])


@pytest.mark.parametrize("name", OF_ONE_RATE)
def test_the_two_meanings_differ_exactly_where_the_codec_predicts_means(name):
    decoded = small_codec(name).encode(IMAGE).y_hat
    rounded = small_codec(name, "rounded").encode(IMAGE).y_hat
    assert torch.equal(decoded, rounded) == (name not in WITH_MEANS)


@pytest.mark.parametrize("quantization", ["dequantized", "rounded"])
@pytest.mark.parametrize("name", OF_ONE_RATE)
def test_a_latent_does_not_depend_on_whether_its_size_is_estimated(name, quantization):
    codec = small_codec(name, quantization)
    latent = codec.encode(IMAGE)
    for with_scales in (False, True):
        bare = codec.encode(IMAGE, with_scales, with_bits=False)
        assert torch.equal(bare.y_hat, latent.y_hat)
        assert bare.bits is bare.channel_bits is bare.side_bits is None
        with pytest.raises(CdlError):
            _ = bare.total_bits


def test_a_latent_without_estimates_does_not_run_the_entropy_model(codec):
    ran = []
    handles = [
        module.register_forward_hook(lambda *_: ran.append(1))
        for module in (codec.network.h_a, codec.network.gaussian_conditional)
    ]
    codec.encode(IMAGE, with_bits=False)
    assert not ran
    codec.encode(IMAGE)
    assert ran
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("size", [(1, 1), (16, 17), (64, 64), (65, 127), (200, 130)])
def test_any_size_keeps_its_size_and_its_cells(codec, size):
    latent = codec.encode(torch.rand(3, *size), with_scales=True)
    assert latent.cells.shape == (192, -(-size[0] // 16), -(-size[1] // 16))
    assert latent.y_hat.shape[1] % 4 == 0 and latent.scales_hat.shape == latent.y_hat.shape
    assert latent.bits.shape == latent.y_hat.shape[1:]
    assert codec.decode(latent).shape == (3, *size)


@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", "mbt2018"])
def test_a_batch_gives_the_latents_of_its_images(name):
    codec = small_codec(name)
    images = [torch.rand(3, 70, 90), torch.rand(3, 128, 100)]  # both coded as 128 x 128
    streams = codec.compress_batch(images)
    for image, latent, stream in zip(images, codec.encode_batch(images), streams, strict=True):
        alone = codec.encode(image)
        assert torch.equal(latent.y_hat, alone.y_hat) and latent.total_bits == alone.total_bits
        assert stream == codec.compress(image)


def test_a_batch_of_several_sizes_is_an_error(codec):
    with pytest.raises(ValueError, match="several coded sizes"):
        codec.encode_batch([torch.rand(3, 64, 64), torch.rand(3, 65, 64)])


def test_padding_grows_right_and_bottom_only():
    padded = pad_for_coding(IMAGE)
    assert padded.shape == (3, 128, 128)
    assert torch.equal(padded[:, :70, :90], IMAGE)
    assert torch.equal(padded[:, 100, :90], IMAGE[:, -1])


def test_codec_is_frozen_and_ignores_autocast(codec):
    assert not codec.network.training
    assert not any(p.requires_grad for p in codec.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = codec.encode(IMAGE)
    assert torch.equal(mixed.y_hat, codec.encode(IMAGE).y_hat)


def test_a_codec_within_a_module_that_is_trained_stays_as_it_is(codec):
    bits = codec.encode(IMAGE).total_bits
    module = torch.nn.ModuleList([codec])
    module.train()
    assert not any(part.training for part in codec.modules())
    assert codec.encode(IMAGE).total_bits == bits


def test_reconstruction_resembles_the_image(codec):
    smooth = torch.linspace(0, 1, 128).expand(3, 128, 128)
    assert (codec.decode(codec.encode(smooth)) - smooth).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("bmshj2018-hyperprior", 9, "mse"), r"quality 9 is not one of 1\.\.8"),
        (("cheng2020-attn", 7, "mse"), r"quality 7 is not one of 1\.\.6"),
        (("bmshj2019", 1, "mse"), "codec name 'bmshj2019' is not one of"),
        (("mbt2018", 1, "psnr"), "metric 'psnr' is not one of"),
        (("tiny-bmshj2018-hyperprior", 1, "ms-ssim"), "metric 'ms-ssim' is not one of"),
    ],
)
def test_an_unknown_choice_is_named(choice, message):
    with pytest.raises(ValueError, match=message):
        Codec.load(*choice)


def test_an_unknown_meaning_is_named():
    with pytest.raises(ValueError, match="quantization 'quantized'"):
        Codec.load("tiny-bmshj2018-hyperprior", 2, quantization="quantized")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "divide by 255"),
        (torch.full((3, 16, 16), 255.0), r"not in \[0, 1\]"),
        (torch.full((3, 16, 16), float("nan")), r"not in \[0, 1\]"),
        (torch.zeros(1, 16, 16), "not 3 x H x W"),
        (torch.zeros(3, 0, 16), "not 3 x H x W"),
    ],
)
def test_a_wrong_image_is_an_error(codec, image, message):
    with pytest.raises(ValueError, match=message):
        codec.encode(image)


def test_a_latent_of_another_codec_is_not_decoded(codec):
    latent = small_codec("cheng2020-anchor").encode(IMAGE)
    with pytest.raises(ValueError, match="cannot be decoded"):
        codec.decode(latent)


@pytest.mark.parametrize("weights", ["", "untrained"])
def test_loading_a_codec_takes_no_random_numbers(weights):
    state = torch.get_rng_state()
    Codec.load("tiny-bmshj2018-hyperprior", 2, weights=weights)
    assert torch.equal(torch.get_rng_state(), state)


def test_untrained_codecs_are_the_same_every_time():
    first, second = (Codec.load("mbt2018-mean", 1, weights="untrained") for _ in range(2))
    assert first.identity == second.identity


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - set(WITH_CONTEXT)))
def test_a_traced_encoding_is_the_encoding(name):
    codec = small_codec(name)
    traced = torch.jit.trace(lambda image: codec.encode(image).cells, IMAGE, check_trace=False)
    flipped = IMAGE.flip(1)
    assert torch.equal(traced(flipped), codec.encode(flipped).cells)
