"""The exported encoder gives the codec's latents."""

import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.export.encoder import encoder_graph
from tests.export.runtimes import run_whole

CODECS = {
    "scales": ("tiny-bmshj2018-hyperprior", 2, "", "dequantized"),
    "means": ("tiny-mbt2018-mean", 1, "untrained", "dequantized"),
    "factorized": ("tiny-bmshj2018-factorized", 1, "untrained", "dequantized"),
    "context, rounded": ("tiny-mbt2018", 1, "untrained", "rounded"),
}


def codec_of(kind):
    torch.manual_seed(0)
    name, quality, weights, quantization = CODECS[kind]
    return Codec.load(name, quality, weights=weights, quantization=quantization)


@pytest.mark.parametrize("kind", CODECS)
def test_the_encoder_gives_the_latent_of_the_codec(kind, tmp_path):
    codec = codec_of(kind)
    run = run_whole(encoder_graph(codec), tmp_path)
    image = torch.rand(3, 70, 100, generator=torch.Generator().manual_seed(1))
    y_hat, *z_hat = run([image[None]])
    expected = codec.encode(image).y_hat
    assert y_hat[0].shape == expected.shape
    assert ((y_hat[0] - expected).abs() > 1e-3).float().mean() < 1e-3
    assert [tuple(z.shape[2:]) for z in z_hat] == ([] if kind == "factorized" else [(2, 2)])


def test_a_latent_that_is_quantized_step_by_step_is_left_unquantized():
    name, quality, weights, _ = CODECS["context, rounded"]
    codec = Codec.load(name, quality, weights=weights)
    graph = encoder_graph(codec)
    assert [value.name for value in graph.outputs] == ["y", "z_hat"]
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    y, z_hat = graph.run([image])
    assert torch.allclose(y, codec.network.g_a(pad_for_coding(image)), atol=1e-5)
    assert z_hat.shape[2:] == (1, 1)
