import torch
import torch.nn.functional as F

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.nn.bridge.latent_translation import LatentTranslation

LOW, HIGH = (CodecIdentity("codec", q, "mse", "dequantized", f"of {q}") for q in (1, 4))
CHANNELS = 4


def latents(count, seed=0):
    """Return latents of images by two codecs, one of them a convolution of the other."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(9))
    for _ in range(count):
        low = torch.randn(CHANNELS, 6, 7, generator=generator)
        yield {LOW: low, HIGH: F.conv2d(low[None], kernel, padding=1)[0] + 2}


def test_it_learns_how_one_codecs_latents_become_anothers_whatever_their_order():
    for identities in ((LOW, HIGH), (HIGH, LOW)):
        translation = LatentTranslation(identities, CHANNELS)
        (seen,) = latents(1, seed=5)
        assert torch.equal(translation(seen[LOW], LOW), seen[LOW])  # not fitted
        translation.fit(latents(20))
        assert torch.allclose(translation(seen[LOW], LOW), seen[HIGH], atol=1e-2)
        assert torch.equal(translation(seen[HIGH], HIGH), seen[HIGH])
        again = LatentTranslation(identities, CHANNELS)
        again.load_state_dict(translation.state_dict())
        assert again.is_fitted
        assert torch.equal(again(seen[LOW], LOW), translation(seen[LOW], LOW))
