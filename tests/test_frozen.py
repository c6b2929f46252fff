from torch import nn

from cdl_d2.nn import Frozen


class Owner(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.held = Frozen(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_a_frozen_network_is_no_part_of_its_owner():
    owner = Owner().train()
    network = owner.held.on("cpu")
    assert len(list(owner.parameters())) == 2 and len(owner.state_dict()) == 2
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
