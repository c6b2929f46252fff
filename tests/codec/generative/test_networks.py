import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.networks import network_from_weights
from cdl_d2.codec.registry import get_architecture
from tests.conftest import GENERATIVE


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_network_is_rebuilt_from_its_weights_whatever_its_size(name):
    network_class = type(get_architecture(f"tiny-{name}").new_network(1))
    odd = network_class(**{**network_class.TINY, "N": 8, "M": 12, "width": 2, "blocks": 1})
    rebuilt = network_from_weights(name, 1, odd.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(rebuilt.eval()(image)["x_hat"], odd.eval()(image)["x_hat"])


@pytest.mark.parametrize("name", [*GENERATIVE, *(f"tiny-{name}" for name in GENERATIVE)])
def test_missing_weights_say_how_to_get_some(name):
    with pytest.raises(FileNotFoundError, match=name):
        Codec.load(name, 1)


@pytest.mark.parametrize("name", GENERATIVE)
def test_distant_pixels_do_not_change_features(name):
    """Normalization is over the channels of a position."""
    network = get_architecture(f"tiny-{name}").new_network(1).eval()
    features = network.g_a[:-1]
    image = torch.rand(1, 3, 64, 256)
    changed = image.clone()
    changed[..., 192:] = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(features(image)[..., :8], features(changed)[..., :8])


@pytest.mark.parametrize("name", GENERATIVE)
def test_random_weights_give_grey_and_tell_brightnesses_apart(name):
    """Features differ in the middle of smooth images, after the first normalization."""
    torch.manual_seed(0)
    network = get_architecture(f"tiny-{name}").new_network(1).eval()
    smooth = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None, None, None].expand(-1, 3, 64, 64)
    with torch.no_grad():
        features = network.g_a[:2](smooth)[:, :, 32, 32]
        x_hat = network(torch.rand(2, 3, 64, 64))["x_hat"]
    assert torch.pdist(features).min() > 0.1 * features.norm(dim=1).mean()
    assert (x_hat.mean((0, 2, 3)) - 0.5).abs().max() < 0.3
