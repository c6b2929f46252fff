import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.codec.learning.trainable import PARTS, TrainableCodec, find_part
from tests.codec.conftest import WITH_CONTEXT
from tests.conftest import ARCHITECTURES, GENERATIVE, VARIABLE_RATE, small_codec


def images(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(smooth, (64, 64), mode="bilinear")


@pytest.mark.parametrize("quantization", ["noise", "straight-through"])
def test_every_part_gets_a_gradient_from_its_own_terms(codec, quantization):
    trainable = TrainableCodec(codec, quantization, PARTS)
    coded = trainable(images())
    coded.y_hat.sum().backward(retain_graph=True)
    parts = {find_part(n) for n, p in trainable.network.named_parameters() if p.grad is not None}
    assert parts == {"encoder"}
    (coded.bits_per_pixel + coded.distortion + trainable.quantile_loss()).backward()
    missing = [n for n, p in trainable.network.named_parameters() if p.grad is None]
    assert not missing


def test_straight_through_gives_the_decoded_latent_and_noise_another(codec):
    image = images()
    decoded = codec.encode(image[0]).y_hat
    straight = TrainableCodec(codec, "straight-through", PARTS)(image).y_hat[0]
    assert torch.equal(straight.detach(), decoded)
    noisy = TrainableCodec(codec, "noise", PARTS)(image).y_hat[0]
    assert 0.1 < (noisy - codec.network.g_a(image)[0]).abs().max() <= 0.5


@pytest.mark.parametrize("quantization", ["noise", "straight-through"])
def test_the_quantized_rate_is_that_of_files(codec, quantization):
    image = images()
    coded = TrainableCodec(codec, quantization, PARTS)(image)
    bits = float(coded.quantized_bits_per_pixel) * 64 * 64
    noise = 0.02 if quantization == "noise" else 1e-4  # in z, and so in the scales
    assert bits == pytest.approx(float(codec.encode(image[0]).total_bits), rel=noise)
    assert not coded.quantized_bits_per_pixel.requires_grad


def test_frozen_parts_do_not_change_and_the_start_codec_stays(codec):
    before = {k: v.clone() for k, v in codec.network.state_dict().items()}
    trainable = TrainableCodec(codec, "noise", ["encoder"])
    optimizer = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.1)
    coded = trainable(images())
    (coded.bits_per_pixel + coded.distortion).backward()
    optimizer.step()
    after = dict(trainable.network.named_parameters())
    changed = {find_part(n) for n in after if not torch.equal(after[n], before[n])}
    assert changed == {"encoder"}
    assert all(torch.equal(v, before[k]) for k, v in codec.network.state_dict().items())


def test_a_saved_codec_reads_its_own_streams(codec, tmp_path):
    trainable = TrainableCodec(codec, "noise", PARTS)
    optimizer = torch.optim.Adam(trainable.parameters(), lr=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        coded = trainable(images(2, step))
        loss = coded.bits_per_pixel + 0.01 * coded.distortion + trainable.quantile_loss()
        loss.backward()
        optimizer.step()
    identity = trainable.save(tmp_path / "codec.safetensors")
    assert identity != codec.identity
    tuned = Codec.load(
        identity.name, identity.quality, identity.metric, str(tmp_path / "codec.safetensors")
    )
    assert tuned.identity == identity
    stream = trainable.as_codec().compress(images()[0])
    assert torch.equal(tuned.decompress(stream).y_hat, tuned.encode(images()[0]).y_hat)
    with pytest.raises(ValueError, match="was made by"):
        codec.decompress(stream)


@pytest.mark.parametrize(
    ("quantization", "parts", "message"),
    [("rounding", PARTS, "'rounding'"), ("noise", ["g_a"], "part 'g_a'")],
)
def test_unknown_choices_are_named(codec, quantization, parts, message):
    with pytest.raises(ValueError, match=message):
        TrainableCodec(codec, quantization, parts)


@pytest.mark.parametrize("quantization", ["dequantized", "rounded"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {*WITH_CONTEXT, *VARIABLE_RATE}))
def test_straight_through_is_the_latent_that_the_codec_encodes(name, quantization):
    codec = small_codec(name, quantization)
    coded = TrainableCodec(codec, "straight-through", PARTS)(images())
    error = (coded.y_hat[0].detach() - codec.encode(images()[0]).y_hat).abs()
    # The codec predicts means in float64: a symbol in a thousand may be rounded to another side.
    assert (error > 1e-3).float().mean() < 1e-3


@pytest.mark.parametrize("name", [*GENERATIVE, "mbt2018-mean", "bmshj2018-factorized"])
@pytest.mark.parametrize("quantization", ["noise", "straight-through"])
def test_the_encoder_learns_through_any_quantizer(name, quantization):
    trainable = TrainableCodec(small_codec(name), quantization, ["encoder"])
    trainable(images()).y_hat.square().sum().backward()
    parameters = dict(trainable.network.named_parameters())
    assert all((p.grad is not None) == (find_part(n) == "encoder") for n, p in parameters.items())


def test_a_context_model_learns_through_noise_only():
    codec = small_codec("mbt2018")
    with pytest.raises(ValueError, match="take quantization noise"):
        TrainableCodec(codec, "straight-through", PARTS)
    assert TrainableCodec(codec, "noise", PARTS)(images()).y_hat.requires_grad


def test_a_codec_of_several_rates_is_not_trained():
    with pytest.raises(ValueError, match="several rates"):
        TrainableCodec(small_codec("mbt2018-mean-vbr"), "noise", PARTS)


@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", *GENERATIVE])
def test_images_of_any_size_are_coded_as_the_codec_codes_them(name):
    codec, small = small_codec(name), images()[:, :, :40, :50]
    coded = TrainableCodec(codec, "straight-through", PARTS)(small)
    latent = codec.encode(small[0], with_scales=True)
    assert coded.y_hat.shape[2:] == (3, 4) and coded.x_hat.shape == small.shape
    assert torch.allclose(coded.scales_hat[0], latent.crop(latent.scales_hat), rtol=1e-3, atol=1e-3)
    assert torch.allclose(coded.x_hat[0].clamp(0, 1), codec.decode(latent), atol=0.05)
    error = 255**2 * (coded.x_hat - small).square().mean()
    assert float(coded.distortion) == pytest.approx(float(error))
    whole = TrainableCodec(codec, "straight-through", PARTS)(pad_for_coding(small))
    rate = float(whole.bits_per_pixel) * 64 * 64 / (40 * 50)  # the same bits, fewer pixels
    assert float(coded.bits_per_pixel) == pytest.approx(rate, rel=0.02)


def test_the_parts_of_a_layered_codec():
    trainable = TrainableCodec(small_codec("zhang2022-layered"), "noise", ["hyperprior"])
    trained = {n.split(".")[0] for n, p in trainable.network.named_parameters() if p.requires_grad}
    assert trained == {"h_a", "h_s", "entropy_bottleneck", "global_bottleneck"}
    trainable.quantile_loss().backward()
    assert trainable.network.global_bottleneck.quantiles.grad.any()
