import pytest
import torch

from cdl_d2.codec import CodecIdentity
from cdl_d2.nn import LatentInput
from cdl_d2.nn.selection.statistics import latent_statistics, load_statistics, save_statistics

OURS = CodecIdentity("mbt2018", 4, "mse", "dequantized", "0123456789abcdef")


@pytest.mark.parametrize(
    ("field", "value"),
    [("quantization", "rounded"), ("quality", 5), ("name", "mbt2018-mean"), ("weights", "f" * 16)],
)
def test_a_state_of_another_codec_is_rejected_naming_both(field, value):
    stored = CodecIdentity(**{**vars(OURS), field: value})
    with pytest.raises(ValueError, match="this model is for") as caught:
        LatentInput(4, OURS).load_state_dict(LatentInput(4, stored).state_dict())
    assert str(OURS) in str(caught.value) and str(stored) in str(caught.value)


def test_a_state_of_the_same_codec_brings_its_statistics():
    source = LatentInput(4, OURS, mean=torch.arange(4.0), std=torch.full((4,), 2.0))
    target = LatentInput(4, OURS)
    target.load_state_dict(source.state_dict())
    y_hat = torch.randn(1, 4, 2, 2)
    assert torch.equal(target(y_hat), source(y_hat))


def test_an_uncommitted_network_adopts_the_codec_of_its_checkpoint():
    network = LatentInput(4)
    network.load_state_dict(LatentInput(4, OURS).state_dict())
    assert network.identities == (OURS,)
    committed = LatentInput(4, OURS)
    committed.load_state_dict(LatentInput(4).state_dict())
    assert committed.identities == (OURS,)


def test_320_channels_for_a_network_of_192_are_rejected():
    with pytest.raises(ValueError, match="latent of 320 channels for a network of 192"):
        LatentInput(192, OURS)(torch.zeros(1, 320, 2, 2))


def test_normalized_latents_have_mean_0_and_deviation_1():
    latents = [torch.randn(3, 8, 5) * 4 + 7 for _ in range(20)]
    mean, std = latent_statistics(latents)
    normalized = LatentInput(3, mean=mean, std=std)(torch.cat(latents, 2)[None])
    assert normalized.mean((0, 2, 3)).abs().max() < 1e-4
    assert (normalized.std((0, 2, 3)) - 1).abs().max() < 0.01


def test_a_constant_channel_is_not_amplified():
    mean, std = latent_statistics([torch.full((1, 4, 4), 3.0)])
    assert mean.item() == 3 and std.item() == pytest.approx(0.05)


def test_statistics_need_latents():
    with pytest.raises(ValueError, match="no latents"):
        latent_statistics([])


def test_statistics_of_another_channel_count_are_rejected():
    with pytest.raises(ValueError, match="do not fit 4 channels"):
        LatentInput(4, OURS, mean=torch.zeros(3))


def test_a_statistics_file_keeps_its_codec(tmp_path):
    path = tmp_path / "statistics.safetensors"
    save_statistics(path, torch.zeros(4), torch.ones(4), OURS)
    assert torch.equal(load_statistics(path, OURS)[1], torch.ones(4))
    with pytest.raises(ValueError, match="this model reads"):
        load_statistics(path, CodecIdentity(**{**vars(OURS), "quantization": "rounded"}))


def test_a_missing_or_damaged_statistics_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        load_statistics(tmp_path / "none.safetensors", OURS)
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(ValueError, match="not a file of latent statistics"):
        load_statistics(tmp_path / "bad.safetensors", OURS)
