import logging

import pytest

from cdl_d2.codec.learning.rate_control import RateControl


def test_a_rate_above_the_target_weighs_more():
    control = RateControl(0.1, above=4.0, below=0.5)
    assert [control.weight(rate, 0) for rate in (0.2, 0.1, 0.05)] == [4.0, 0.5, 0.5]


def test_before_its_start_there_is_no_target():
    control = RateControl(0.1, above=4.0, below=0.5, start=2)
    assert [control.weight(0.2, iteration) for iteration in range(4)] == [0.5, 0.5, 4.0, 4.0]


def test_the_rate_converges_to_the_target():
    control, rate = RateControl(0.1, above=4.0, below=0.5), 0.5
    # a rate that falls with its weight
    for i in range(400):
        rate *= 1.02 - 0.01 * control.weight(rate, i)
    assert control.reached == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(("rate", "warned"), [(0.1, False), (0.109, False), (0.12, True)])
def test_a_missed_target_is_logged_with_the_reached_rate(rate, warned, caplog):
    control = RateControl(0.1, above=4.0, below=0.5)
    control.weight(5.0, 0)  # long ago
    for _ in range(200):
        control.weight(rate, 1)
    with caplog.at_level(logging.WARNING):
        control.warn_if_missed()
    assert (f"{rate:.4f}" in caplog.text) == warned == bool(caplog.text)


@pytest.mark.parametrize("wrong", [(0.0, 4.0, 0.5), (0.1, 0.5, 0.5), (0.1, 1.0, -1.0)])
def test_invalid_controls_are_named(wrong):
    with pytest.raises(ValueError, match=r"bits per pixel|weights of the rate"):
        RateControl(*wrong)
