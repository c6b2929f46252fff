import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2.modeling.optimizers import Optimizers


def make():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    adam, sgd = torch.optim.Adam(weights[:1], lr=0.1), torch.optim.SGD(weights[1:], lr=0.2)
    return weights, {"codec": adam, "discriminator": sgd}


def step(weights, optimizer):
    optimizer.zero_grad()
    sum(w.square().sum() for w in weights).backward()
    optimizer.step()


def test_each_parameter_moves_as_by_its_own_optimizer():
    weights, optimizers = make()
    alone, separate = make()
    together = Optimizers(optimizers)
    for _ in range(3):
        step(weights, together)
        for optimizer in separate.values():
            optimizer.zero_grad()
        sum(w.square().sum() for w in alone).backward()
        for optimizer in separate.values():
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, alone, strict=True))


def test_a_schedule_changes_the_learning_rates_of_all():
    weights, optimizers = make()
    together = Optimizers(optimizers)
    schedule = torch.optim.lr_scheduler.LambdaLR(together, lambda step: 0.5**step)
    step(weights, together)
    schedule.step()
    assert optimizers["codec"].param_groups[0]["lr"] == 0.05
    assert optimizers["discriminator"].param_groups[0]["lr"] == 0.1


def test_a_state_continues_all(tmp_path):
    weights, optimizers = make()
    together = Optimizers(optimizers)
    step(weights, together)
    torch.save(together.state_dict(), tmp_path / "state.pth")
    copies, others = make()
    for copy, weight in zip(copies, weights, strict=True):
        copy.data.copy_(weight)
    restored = Optimizers(others)
    restored.load_state_dict(torch.load(tmp_path / "state.pth"))
    for _ in range(2):
        step(weights, together)
        step(copies, restored)
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))
    with pytest.raises(ValueError, match="codec"):
        restored.load_state_dict({"codec": {}})
