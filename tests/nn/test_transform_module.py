import pytest
import torch

from cdl_d2.nn import LatentInput
from cdl_d2.nn.transform_module import MODULES, TransformModule


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("cells", [(4, 6), (1, 1), (5, 3)])
def test_a_cell_becomes_four_by_four_and_everything_learns(kind, cells):
    torch.manual_seed(0)
    module = TransformModule(LatentInput(12), 8, kind, width=6)
    feature = module(torch.randn(2, 12, *cells))
    assert feature.shape == (2, 8, 4 * cells[0], 4 * cells[1])
    feature.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_an_unknown_module_and_another_codecs_latent_are_named():
    with pytest.raises(ValueError, match="'linear' is not one of deconv, res"):
        TransformModule(LatentInput(12), 8, "linear")
    with pytest.raises(ValueError, match="latent of 6 channels"):
        TransformModule(LatentInput(12), 8, "deconv")(torch.zeros(1, 6, 4, 4))
