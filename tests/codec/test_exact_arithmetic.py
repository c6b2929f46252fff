from contextlib import ExitStack

import pytest
import torch

from cdl_d2.codec.entropy.exact_arithmetic import exact_arithmetic, full_float32, in_float64
from tests.conftest import small_codec

IMAGE = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


@pytest.fixture
def settings(monkeypatch):
    """Every float32 setting of PyTorch that a user may have changed, restored after the test."""
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("PyTorch before 2.9 has no fp32_precision")
    yield torch.backends
    torch.backends.fp32_precision = "none"
    torch.backends.mkldnn.conv.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("highest")


def precisions():
    backends = torch.backends
    operations = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv)
    return [each.fp32_precision for each in (*operations, backends.mkldnn.matmul)]


@pytest.mark.parametrize("precision", ["tf32", "bf16", "ieee"])
def test_float32_is_computed_in_full_and_as_the_user_said_outside(settings, precision):
    before = precisions()
    settings.fp32_precision = precision
    outside = precisions()
    with exact_arithmetic(CPU):
        assert not {*precisions()} & {"tf32", "bf16"}
    assert precisions() == outside
    settings.fp32_precision = "none"
    assert precisions()[1:] == before[1:]  # PyTorch's own default of cudnn.conv is another
    settings.fp32_precision = precision
    expected = small_codec("mbt2018-mean").encode(IMAGE)
    settings.fp32_precision = "none"
    assert torch.equal(small_codec("mbt2018-mean").encode(IMAGE).y_hat, expected.y_hat)


def test_matrix_products_are_computed_in_full_whichever_switch_the_user_took(settings):
    torch.set_float32_matmul_precision("medium")
    with exact_arithmetic(CPU):
        assert not {*precisions()} & {"tf32", "bf16"}
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("chosen", [True, False])
def test_kernels_are_deterministic_and_the_users_choice_survives(settings, chosen):
    cudnn = settings.cudnn
    cudnn.deterministic, cudnn.benchmark = chosen, not chosen
    with exact_arithmetic(CPU):
        assert cudnn.deterministic and not cudnn.benchmark
    assert (cudnn.deterministic, cudnn.benchmark) == (chosen, not chosen)


def test_the_last_of_several_threads_restores_the_settings(settings):
    settings.cudnn.deterministic = False
    first, second = ExitStack(), ExitStack()
    for stack in (first, second):
        stack.enter_context(full_float32())
    first.close()
    assert settings.cudnn.deterministic
    second.close()
    assert not settings.cudnn.deterministic


@pytest.mark.parametrize("name", ["bmshj2018-factorized", "mbt2018-mean", "mbt2018"])
def test_autocast_changes_no_latent_and_no_image(name):
    codec = small_codec(name)
    latent = codec.encode(IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        again, stream = codec.encode(IMAGE), codec.compress(IMAGE)
        decoded = codec.decode(codec.decompress(stream))
    assert torch.equal(again.y_hat, latent.y_hat) and again.total_bits == latent.total_bits
    assert stream == codec.compress(IMAGE)
    assert torch.equal(decoded, codec.decode(latent))


@torch.no_grad()
def test_the_function_in_float64_follows_weights_and_hooks():
    layer, x, calls = torch.nn.Linear(3, 2), torch.rand(4, 3), []

    def expected():
        weight, bias = layer.weight.double(), layer.bias.double()
        return torch.nn.functional.linear(x.double(), weight, bias).float()

    assert torch.equal(in_float64(layer)(x), expected())
    layer.weight.mul_(2)
    assert torch.equal(in_float64(layer)(x), expected())
    layer.load_state_dict({"weight": torch.rand(2, 3), "bias": torch.rand(2)}, assign=True)
    assert torch.equal(in_float64(layer)(x), expected())
    layer.weight.data = torch.rand(2, 3)
    layer.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(in_float64(layer)(x), expected()) and calls
    with torch.enable_grad():
        in_float64(layer)(x).sum().backward()
    assert layer.bias.grad is not None
