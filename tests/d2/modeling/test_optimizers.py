import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.modeling.optimizers import Optimizers, build_optimizer
from cdl_d2.errors import CdlError


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
    copies, copied_optimizers = make()
    for copy, weight in zip(copies, weights, strict=True):
        copy.data.copy_(weight)
    restored = Optimizers(copied_optimizers)
    restored.load_state_dict(torch.load(tmp_path / "state.pth"))
    for _ in range(2):
        step(weights, together)
        step(copies, restored)
    assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))
    with pytest.raises(ValueError, match="codec"):
        restored.load_state_dict({"codec": {}})


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)

    def forward(self):
        return self.norm(self.layer(torch.arange(12.0).reshape(4, 3))).square().mean()


def solver(*options):
    return read_config("segmentation/pixel_deeplab_v3_R50.yaml", options)


def one_step(optimizer, model):
    optimizer.zero_grad()
    model().backward()
    optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["SGD", "ADAM", "ADAMW"])
def test_the_named_optimizer_steps_as_torchs_own(name):
    cfg = solver("SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY_NORM", 0.0)
    model, copy = Layers(), Layers()
    decays = [{"params": copy.layer.parameters()}]
    decays += [{"params": copy.norm.parameters(), "weight_decay": 0.0}]
    common = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    expected = {
        "SGD": lambda: torch.optim.SGD(decays, momentum=cfg.SOLVER.MOMENTUM, **common),
        "ADAM": lambda: torch.optim.Adam(decays, **common),
        "ADAMW": lambda: torch.optim.AdamW(decays, **common),
    }[name]()
    pairs = zip(one_step(build_optimizer(cfg, model), model), one_step(expected, copy), strict=True)
    assert all(torch.equal(tensor, restored_tensor) for tensor, restored_tensor in pairs)


def test_gradients_are_clipped_whichever_optimizer_it_is():
    clip = "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-6
    for name in ("SGD", "ADAM"):
        model = Layers()
        one_step(build_optimizer(solver("SOLVER.OPTIMIZER", name, *clip), model), model)
        assert model.layer.weight.grad.abs().max() <= 1e-6


def test_an_unknown_optimizer_is_named():
    with pytest.raises(CdlError, match="'LION' is not one of SGD, ADAM, ADAMW"):
        build_optimizer(solver("SOLVER.OPTIMIZER", "LION"), Layers())
