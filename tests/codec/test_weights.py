import hashlib
import pickle
import re

import pytest
import torch
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.codec.io.weights_file import (
    load_network,
    load_state_dict,
    save_checkpoint,
    save_tensors,
    save_weights,
)
from cdl_d2.codec.networks import download, zoo_url
from cdl_d2.codec.registry import ARCHITECTURES, METRICS, get_architecture
from cdl_d2.errors import CdlError
from tests.conftest import loud_network
from tests.test_files import largest_file
from tests.web import file_answer, serving

NAME = "tiny-bmshj2018-hyperprior"


@pytest.fixture
def weights(tmp_path):
    """A file in the form of CompressAI's zoo, named with its hash."""
    path = tmp_path / "weights.pth.tar"
    network = loud_network(NAME)
    network.update()
    torch.save(network.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()[:8], network


def test_a_saved_codec_is_the_same_codec(tmp_path, codec):
    path = tmp_path / "codec.safetensors"
    save_weights(path, codec.network, {})
    again = Codec.load(NAME, 2, weights=str(path))
    assert again.identity == codec.identity


@pytest.mark.parametrize("form", ["a checkpoint", "safetensors"])
def test_a_full_disk_is_an_error_of_the_file_and_leaves_nothing(tmp_path, form):
    path, state = tmp_path / "codec.weights", {"a": torch.rand(1000)}
    with largest_file(2000), pytest.raises(OSError, match=r"too large.*codec\.weights"):
        save_checkpoint(path, state) if form == "a checkpoint" else save_tensors(path, state, {})
    assert list(tmp_path.iterdir()) == []


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_flipped_bit_is_an_error_or_changes_nothing(tmp_path):
    path, state = tmp_path / "a.pth", {"a": torch.rand(300), "b": torch.arange(5)}
    save_checkpoint(path, {"model": state, "iteration": 3})
    content, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(content), 113):
        path.write_bytes(flipped(content, bit))
        try:
            again = load_state_dict(path)
        except CdlError as error:
            refused += str(path) in str(error)
        else:
            assert all(torch.equal(again[name], state[name]) for name in state)
    assert refused > 60


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    save_checkpoint(tmp_path / "a.pth", {"good": torch.ones(2), "bad": torch.full((2,), value)})
    with pytest.raises(CdlError, match=r"not finite, in bad"):
        load_state_dict(tmp_path / "a.pth")


NOT_PLAIN = {
    "sparse": torch.eye(2).to_sparse(),
    "without numbers": torch.empty(2, device="meta"),
    "one number that stands for 2^50": torch.ones(1).expand(2**50),
    "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "a number": 3.5,
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_an_entry_that_is_no_plain_tensor_is_named(tmp_path, kind):
    save_checkpoint(tmp_path / "a.pth", {"good": torch.ones(2), "bad": NOT_PLAIN[kind]})
    with pytest.raises(CdlError, match=r"a\.pth.*bad"):
        load_state_dict(tmp_path / "a.pth")


def test_weights_in_the_zoos_form_load_and_give_the_same_latent(weights):
    path, _, network = weights
    image = torch.rand(3, 64, 64)
    loaded = Codec.load("bmshj2018-hyperprior", 1, weights=str(path))
    expected = Codec(network, "bmshj2018-hyperprior", 1, "mse", "dequantized").encode(image).y_hat
    different = Codec(loud_network(NAME, seed=1), NAME, 1, "mse", "dequantized").encode(image).y_hat
    assert torch.equal(loaded.encode(image).y_hat, expected)
    assert not torch.equal(different, expected)


def test_fingerprint_follows_weights_but_not_coding_tables():
    network = get_architecture(NAME).new_network(1)
    before = fingerprint(network)
    network.update()
    assert fingerprint(network) == before
    network.g_a[0].bias.data[0] += 1
    assert fingerprint(network) != before


@pytest.mark.parametrize("name", ["cheng2020-attn", "mbt2018"])
def test_fingerprint_stays_when_masked_convolutions_have_run(name):
    codec = Codec(loud_network(f"tiny-{name}"), f"tiny-{name}", 1, "mse", "dequantized")
    codec.network(torch.rand(1, 3, 64, 64))
    assert fingerprint(codec.network) == codec.identity.weights


def test_download_is_checked_by_the_hash_in_its_name(weights, tmp_path):
    path, digest, _ = weights
    with serving(file_answer(path.read_bytes())) as server:
        downloaded = download(f"{server.address}/codec-{digest}.pth.tar", tmp_path / "cache")
        assert downloaded.read_bytes() == path.read_bytes()
        with pytest.raises(CdlError, match="00000000"):
            download(f"{server.address}/codec-00000000.pth.tar", tmp_path / "cache")
    assert [*(tmp_path / "cache").iterdir()] == [downloaded]


def test_a_download_that_fails_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"127\.0\.0\.1:9"):
        download("http://127.0.0.1:9/codec-12345678.pth.tar", tmp_path)


def test_every_codec_of_the_zoo_has_an_address_with_a_hash():
    in_zoo = [a for a in ARCHITECTURES.values() if a.weights_url]
    assert len(in_zoo) == 9
    for codec in in_zoo:
        for metric in METRICS[: 1 if codec.is_variable_rate else 2]:
            for quality in codec.qualities:
                assert re.search(r"-[0-9a-f]{8}\.pth\.tar$", zoo_url(codec.name, quality, metric))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist"):
        Codec.load(NAME, 2, weights=str(tmp_path / "nowhere.pth"))


def test_weights_of_another_architecture_are_an_error(weights):
    with pytest.raises(ValueError, match="do not fit the architecture cheng2020-attn"):
        Codec.load("cheng2020-attn", 1, weights=str(weights[0]))


def changed(weights, tmp_path, change):
    """The path of a file of weights after a change."""
    state = weights[2].state_dict()
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    return str(tmp_path / "changed.pth")


def _shift(state):
    state["entropy_bottleneck._quantized_cdf"][:, 1:-1] += 1


def _flatten(state):
    state["entropy_bottleneck._quantized_cdf"].zero_()
    state["gaussian_conditional._quantized_cdf"].zero_()


@pytest.mark.parametrize("change", [_shift, _flatten])
def test_tables_of_a_file_are_not_believed(weights, tmp_path, change):
    image = torch.rand(3, 64, 64)
    codecs = [
        Codec.load(NAME, 1, weights=path)
        for path in (str(weights[0]), changed(weights, tmp_path, change))
    ]
    first, second = (codec.compress(image) for codec in codecs)
    assert first == second
    assert torch.equal(*(codec.decompress(first).y_hat for codec in codecs))


def test_tables_of_weights_before_are_made_anew():
    network, source, image = loud_network(NAME), loud_network(NAME, seed=1), torch.rand(3, 64, 64)
    network.update()
    for target, weights in zip(network.parameters(), source.parameters(), strict=True):
        target.data.copy_(weights)
    stale, fresh = (Codec(n, NAME, 1, "mse", "dequantized") for n in (network, source))
    assert stale.compress(image) == fresh.compress(image)


def _set(key, value, index=(0,)):
    def change(state):
        state[key][index] = value

    return change


CORRUPTIONS = {
    "a NaN": _set("g_a.0.weight", float("nan"), (0, 0, 0, 0)),
    "an infinity": _set("h_s.0.bias", float("inf")),
    "a tensor without dimensions": lambda s: s.update({"g_a.0.weight": torch.tensor(1.0)}),
    "other dimensions": lambda s: s.update({"g_s.0.weight": torch.zeros(3)}),
    "no bytes, but a shape": lambda s: s.update({"g_a.0.weight": torch.zeros(300_000, 0, 5, 5)}),
    "names only": lambda s: [s.update({k: torch.zeros(0)}) for k in s],
}
USELESS = {
    "a huge weight": _set("g_a.0.weight", 1e30, (0, 0, 0, 0)),
    "large weights": lambda s: s["g_a.6.weight"].mul_(1e9),
    "zeros": lambda s: [tensor.zero_() for tensor in s.values()],
    "quantiles far apart": _set("entropy_bottleneck.quantiles", 1e9, (0, 0, 2)),
    "scales beyond numbers": lambda s: s["h_s.4.weight"].fill_(3e38),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corrupted_weights_are_an_error(weights, tmp_path, kind):
    path = changed(weights, tmp_path, CORRUPTIONS[kind])
    with pytest.raises(CdlError, match="weights"):
        Codec.load(NAME, 1, weights=path)


@pytest.mark.parametrize("kind", USELESS)
def test_weights_that_code_nothing_end_in_an_error(weights, tmp_path, kind):
    codec = Codec.load(NAME, 1, weights=changed(weights, tmp_path, USELESS[kind]))
    with pytest.raises(CdlError, match="weights"):
        codec.compress(torch.rand(3, 64, 64))


class _Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle ran code')",))


def test_loading_runs_no_code(tmp_path):
    path = tmp_path / "trap.pth"
    torch.save({"state_dict": _Trap()}, path)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_state_dict(path)


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_old_pytorch_versions_are_read(tmp_path, zipped):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_state_dict(path)["a"], torch.ones(2))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_corrupted_file_is_an_error(tmp_path, suffix):
    path = tmp_path / f"corrupt{suffix}"
    path.write_bytes(pickle.dumps([1, 2, 3])[:-3] + b"garbage")
    with pytest.raises(ValueError, match="corrupt"):
        load_state_dict(path)


def test_entries_with_other_names_are_an_error_and_not_loaded_by_position(tmp_path):
    norm = nn.BatchNorm2d(3)
    names = ("mean", "var", "gamma", "beta", "count")
    values = [tensor + 1 for tensor in norm.state_dict().values()]
    torch.save(dict(zip(names, values, strict=True)), tmp_path / "other.pth")
    with pytest.raises(CdlError, match=r"other\.pth .*weight"):
        load_network(norm, tmp_path / "other.pth")
    wrapped = {f"module.{k}": v + 1 for k, v in norm.state_dict().items()}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    load_network(norm, tmp_path / "wrapped.pth")
    assert bool((norm.weight == 2).all())
