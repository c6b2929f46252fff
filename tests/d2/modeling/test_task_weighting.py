import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2.modeling.task_weighting import TaskWeighting
from cdl_d2.errors import CdlError

LOSSES = {"a": torch.tensor(2.0), "b": torch.tensor(0.5)}


def test_fixed_weights_scale_each_loss_and_learn_nothing():
    weighting = TaskWeighting({"a": 3.0, "b": 1.0})
    assert {k: float(v) for k, v in weighting(LOSSES).items()} == {"a": 6.0, "b": 0.5}
    assert not list(weighting.parameters())


def test_learned_variances_end_where_they_equal_the_losses():
    # exp(-s) l + s / 2 is least at s = log 2 l
    weighting = TaskWeighting({"a": 1.0, "b": 1.0}, "uncertainty")
    optimizer = torch.optim.SGD(weighting.parameters(), lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        sum(weighting(LOSSES).values()).backward()
        optimizer.step()
    for task, loss in LOSSES.items():
        assert weighting.log_variances[task].item() == pytest.approx(
            float((2 * loss).log()), abs=1e-3
        )


@pytest.mark.parametrize("weights, kind", [({"a": 0.0}, "fixed"), ({"a": 1.0}, "learned")])
def test_wrong_weights_are_rejected(weights, kind):
    with pytest.raises(CdlError):
        TaskWeighting(weights, kind)
