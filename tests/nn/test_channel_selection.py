import pytest
import torch

from cdl_d2.nn.selection.channel_selection import ChannelGate, FixedChannels, gate_scores


def gate(temperature=1.0, bias=1.0):
    torch.manual_seed(0)
    return ChannelGate(24, temperature=temperature, bias=bias)


def latents(count=4):
    torch.manual_seed(1)
    return 3 * torch.randn(count, 24, 6, 8)


def test_a_choice_is_0_or_1_and_has_a_gradient():
    module, y_hat = gate(), latents()
    choice = module(y_hat)
    assert choice.shape == (4, 24, 1, 1)
    assert set(choice.unique().tolist()) == {0.0, 1.0}
    (choice * y_hat).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())


def test_noise_is_sampled_in_training_and_off_in_evaluation():
    module, y_hat = gate(), latents()
    assert any(not torch.equal(module(y_hat), module(y_hat)) for _ in range(5))
    module.eval()
    assert all(torch.equal(module(y_hat), module(y_hat)) for _ in range(5))
    assert torch.equal(module(y_hat)[:1], module(y_hat[:1]))


def test_noise_is_sampled_in_float32_under_mixed_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gate().keep_probability(latents()).dtype == torch.float32
        assert gate()(latents()).dtype == torch.float32


def test_training_starts_from_nearly_all_channels_and_images_can_differ():
    module = gate().eval()
    assert module(latents()).mean() > 0.8
    with torch.no_grad():
        module.score[2].weight.mul_(50)
    choices = module(latents())
    assert not torch.equal(choices[0], choices[1])


def test_without_a_bias_a_channel_is_as_likely_dropped_as_kept():
    silence = torch.zeros(1, 24, 2, 2)  # with the first convolution's bias off, only ours is left
    for bias, expected in ((0.0, 0.5), (1.0, 0.881), (-1.0, 0.119)):
        module = gate(bias=bias)
        with torch.no_grad():
            module.score[0].bias.zero_()
        assert module.keep_probability(silence).flatten().tolist() == pytest.approx(
            24 * [expected], abs=1e-3
        )


def test_the_temperature_matters_in_training_only():
    y_hat = latents(64)

    def gradient(temperature):
        module = gate(temperature)
        torch.manual_seed(2)
        module(y_hat).sum().backward()
        return module.score[2].bias.grad

    assert torch.equal(gradient(1.0), gradient(1.0))  # the same noise
    assert (gradient(0.1) - gradient(1.0)).norm() > 0.1 * gradient(1.0).norm()
    cold, warm = gate(0.05).eval(), gate(5.0).eval()
    assert torch.equal(cold(y_hat), warm(y_hat))
    with pytest.raises(ValueError, match="temperature 0"):
        gate(0)


@pytest.mark.parametrize("count", [1, 5, 24])
def test_exactly_n_channels_are_kept_and_stay_with_the_state(count):
    kept = torch.randperm(24)[:count]
    module = FixedChannels(24, kept)
    choice = module(latents())
    assert (choice.flatten(1).sum(1) == count).all()
    again = FixedChannels(24, [])
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(latents()), choice)
    module.load_state_dict({})  # weights from before there was a selection
    if count < 24:
        with pytest.raises(ValueError, match="the checkpoint selects channels"):
            FixedChannels(24, list(range(24))).load_state_dict(module.state_dict())


def test_scores_count_choices_and_order_ties_by_probability():
    module, y_hat = gate().eval(), latents()
    with torch.no_grad():
        module.score[2].weight.mul_(50)
        bits = torch.full((len(y_hat), 24), 5.0)
        scores = gate_scores(module, zip(y_hat, bits, strict=True))
        counts = module(y_hat).flatten(1).sum(0)
        assert torch.equal(scores.floor(), counts)
        never, likely = counts == 0, module.keep_probability(y_hat).mean(0).flatten()
    assert never.sum() > 1
    assert torch.equal(scores[never].argsort(), likely[never].argsort())
    bits[:, 3] = bits[:2, 4] = 0.1  # channel 3 is empty, 4 is on two of four images
    with torch.no_grad():
        module.score[2].bias[24:] += 100  # everything is kept
        filled = gate_scores(module, zip(y_hat, bits, strict=True))
    assert filled.argsort()[:2].tolist() == [3, 4] and filled[3] == 0
    with pytest.raises(ValueError, match="no latents"):
        gate_scores(module, [])


@pytest.mark.parametrize("kept", [[24], [-1], [2, 2]])
def test_channels_that_do_not_fit_are_named(kept):
    with pytest.raises(ValueError, match=r"0\.\.23"):
        FixedChannels(24, kept)


@pytest.mark.parametrize("module", [gate(), FixedChannels(24, [1])])
def test_a_latent_of_another_codec_is_rejected(module):
    with pytest.raises(ValueError, match="12 channels, expected 24"):
        module(torch.zeros(1, 12, 4, 4))
