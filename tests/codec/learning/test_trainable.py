import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.learning.trainable import PARTS, TrainableCodec, part_of
from tests.conftest import small_codec


def images(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(smooth, (64, 64), mode="bilinear")


@pytest.mark.parametrize("quantization", ["noise", "straight-through"])
def test_every_part_gets_a_gradient_from_its_own_terms(codec, quantization):
    trainable = TrainableCodec(codec, quantization, PARTS)
    coded = trainable(images())
    coded.y_hat.sum().backward(retain_graph=True)
    reached = {part_of(n) for n, p in trainable.network.named_parameters() if p.grad is not None}
    assert reached == {"encoder"}
    (coded.bits_per_pixel + coded.distortion + trainable.quantile_loss()).backward()
    missing = [n for n, p in trainable.network.named_parameters() if p.grad is None]
    assert not missing


def test_straight_through_shows_what_a_receiver_decodes_and_noise_does_not(codec):
    image = images()
    decoded = codec.encode(image[0]).y_hat
    straight = TrainableCodec(codec, "straight-through", PARTS)(image).y_hat[0]
    assert torch.equal(straight.detach().round(), decoded)
    noisy = TrainableCodec(codec, "noise", PARTS)(image).y_hat[0]
    assert 0.1 < (noisy - codec.network.g_a(image)[0]).abs().max() <= 0.5


def test_frozen_parts_do_not_change_and_the_start_codec_stays(codec):
    before = {k: v.clone() for k, v in codec.network.state_dict().items()}
    trainable = TrainableCodec(codec, "noise", ["encoder"])
    optimizer = torch.optim.SGD([p for p in trainable.parameters() if p.requires_grad], lr=0.1)
    coded = trainable(images())
    (coded.bits_per_pixel + coded.distortion).backward()
    optimizer.step()
    changed = {
        part_of(n) for n, p in trainable.network.named_parameters() if not torch.equal(p, before[n])
    }
    assert changed == {"encoder"}
    assert all(torch.equal(v, before[k]) for k, v in codec.network.state_dict().items())


def test_a_tuned_codec_reads_its_own_streams_after_it_was_saved(codec, tmp_path):
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


def test_codecs_with_means_learn_through_noise_only():
    mean = small_codec("mbt2018-mean")
    with pytest.raises(ValueError, match="take quantization noise"):
        TrainableCodec(mean, "straight-through", PARTS)
    assert TrainableCodec(mean, "noise", PARTS)(images()).y_hat.requires_grad


def test_a_size_that_a_codec_is_not_trained_on_is_named(codec):
    with pytest.raises(ValueError, match="60x64"):
        TrainableCodec(codec, "noise", PARTS)(images()[:, :, :60])
