import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cdl_d2.codec.io.packed_weights import pack, packed_bytes, unpack
from cdl_d2.codec.io.weights_file import read_weights
from cdl_d2.errors import CdlError


def network():
    """Two large layers, one of which a caller may want to keep, and small ones."""
    layers = {
        "conv": nn.Conv2d(8, 16, 5),
        "bridge": nn.Conv2d(8, 16, 5),
        "norm": nn.BatchNorm2d(2048),
        "last": nn.Linear(4, 4),
    }
    return nn.ModuleDict(layers)


def test_the_error_of_a_packed_weight_is_below_a_hundredth_of_its_rows_largest():
    weight = network()["conv"].weight.detach()
    weight[0], weight[1, 0] = 0, 1e4  # a row of zeros, and one of great and small
    [again] = unpack(pack({"weight": weight})).values()
    largest = weight.flatten(1).abs().amax(1)
    assert ((again - weight).flatten(1).abs().amax(1) <= largest / 253).all()
    assert (again[0] == 0).all()


def test_large_tensors_are_packed_and_others_stay():
    state = network().state_dict()
    packed = pack(state, keep=lambda name: "bridge" in name)
    assert set(packed) == {*state, "conv.weight.scale"}
    assert packed["conv.weight"].dtype == torch.int8
    assert packed["conv.weight.scale"].shape == (16,)
    again = unpack(packed)
    assert set(again) == set(state)
    assert all(v.dtype == state[k].dtype for k, v in again.items())
    assert all(torch.equal(again[k], v) for k, v in state.items() if k != "conv.weight")


def test_packing_twice_changes_nothing():
    once = unpack(pack(network().state_dict()))
    twice = unpack(pack(once))
    assert all(torch.allclose(twice[name], once[name], rtol=1e-6) for name in once)


def test_a_packed_file_is_read_as_weights_and_is_smaller(tmp_path):
    layers = network()
    path = tmp_path / "packed.safetensors"
    path.write_bytes(packed_bytes(layers.state_dict()))
    again = network()
    again.load_state_dict(read_weights(path))
    assert torch.allclose(again["conv"].weight, layers["conv"].weight, atol=1e-3)
    assert torch.equal(again["last"].weight, layers["last"].weight)
    assert packed_bytes(layers.state_dict()) == path.read_bytes()
    whole = packed_bytes(layers.state_dict(), keep=lambda name: True)
    assert len(path.read_bytes()) < 0.7 * len(whole)


def test_a_file_that_is_not_packed_is_read_as_it_is(tmp_path):
    state = {"a": torch.ones(2, 3, dtype=torch.int8), "a.scale": torch.ones(2)}
    save_file(state, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").keys() == state.keys()
    assert load_file(tmp_path / "a.safetensors").keys() == state.keys()


def test_tensors_that_share_their_memory_can_be_packed(tmp_path):
    weight = torch.rand(64, 64)
    (tmp_path / "a.safetensors").write_bytes(packed_bytes({"a": weight.T, "b": weight.T[:2]}))
    assert torch.equal(read_weights(tmp_path / "a.safetensors")["b"], weight.T[:2])


def test_what_cannot_be_packed_is_refused(tmp_path):
    weight = torch.full((32, 32), float("nan"))
    with pytest.raises(CdlError, match="w has weights that are not finite"):
        pack({"w": weight})
    with pytest.raises(CdlError, match=r"w\.scale"):
        pack({"w": torch.ones(32, 32), "w.scale": torch.ones(1)})
    with pytest.raises(CdlError, match="w has 32 rows"):
        unpack({"w": torch.ones(32, 32, dtype=torch.int8), "w.scale": torch.ones(3)})
    save_file({"w": weight}, tmp_path / "a.safetensors", metadata={"packed": "int4"})
    with pytest.raises(CdlError, match=r"a\.safetensors is packed as 'int4'"):
        read_weights(tmp_path / "a.safetensors")
