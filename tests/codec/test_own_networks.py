"""Codecs of users' own networks."""

import pytest
import torch
from compressai.models import (
    Cheng2020Anchor,
    Cheng2020AnchorCheckerboard,
    Elic2022Chandelier,
    Elic2022Official,
    FactorizedPrior,
    MeanScaleHyperprior,
    MeanScaleHyperpriorVbr,
    ScaleHyperprior,
)
from torch import nn

from cdl_d2.codec import Bitstream, BitstreamError, Codec, CodecChoice, register_codec
from cdl_d2.codec.entropy.hyperprior_coder import HyperpriorCoder
from cdl_d2.codec.io.state_dicts import fingerprint
from cdl_d2.codec.io.weights_file import load_state_dict, save_weights
from cdl_d2.codec.latent import pad_for_coding
from cdl_d2.codec.registry import unregister
from cdl_d2.errors import CdlError
from tests import warm

IMAGE = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(1))


def loud(network: nn.Module) -> nn.Module:
    """The network, with latents that are not all zero."""
    layers = [m for m in network.g_a.children() if isinstance(m, nn.Conv2d)]
    layers[-1].weight.data *= 30
    return network


def as_compressai_decodes(network: nn.Module) -> torch.Tensor:
    """IMAGE through CompressAI's own streams."""
    network.update()
    with torch.no_grad():
        coded = network.compress(pad_for_coding(IMAGE)[None])
        return network.decompress(**coded)["x_hat"][0, :, :70, :90]


class OwnTransforms(MeanScaleHyperprior):
    """Other transforms around the entropy model of CompressAI's."""

    def __init__(self):
        super().__init__(8, 24)
        self.g_a = nn.Sequential(nn.Conv2d(3, 24, 16, 16), nn.Tanh(), nn.Conv2d(24, 24, 1))
        self.g_s = nn.Sequential(nn.Conv2d(24, 768, 1), nn.PixelShuffle(16))
        del self.N, self.M  # channels are an argument of from_network only


NETWORKS = {
    "own transforms": (OwnTransforms, 24),
    "factorized": (lambda: FactorizedPrior(8, 12), 12),
    "scales": (lambda: ScaleHyperprior(8, 12), 12),
    "context": (lambda: Cheng2020Anchor(8), 8),
    "checkerboard": (lambda: Cheng2020AnchorCheckerboard(8), 8),
    "groups": (lambda: Elic2022Official(8, 24, [4, 8, 12]), 24),
    "some groups": (lambda: Elic2022Chandelier(8, 24, [4, 4, 8, 8]), 24),
    "rates": (lambda: MeanScaleHyperpriorVbr(8, 12, vr_entbttlnck=True), 12),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_ones_own_codes_and_decodes_exactly(kind, tmp_path):
    build, channels = NETWORKS[kind]
    network = loud(build())
    codec = Codec.from_network("mine", network, channels, quality=7)
    encoded = codec.encode(IMAGE)
    assert encoded.y_hat.shape == (channels, 8, 8) and encoded.y_hat.any()
    codec.compress(IMAGE).save(tmp_path / "image.cdlz")
    received = codec.decompress(Bitstream.load(tmp_path / "image.cdlz"))
    assert torch.equal(received.y_hat, encoded.y_hat)
    assert codec.decode(received).shape == IMAGE.shape
    assert network.training and all(p.requires_grad for p in network.parameters())  # a copy


@pytest.mark.parametrize("kind", ["own transforms", "checkerboard", "groups", "some groups"])
def test_the_latent_equals_the_one_decoded_from_compressais_streams(kind):
    build, channels = NETWORKS[kind]
    network = loud(build()).eval()
    codec = Codec.from_network("mine", network, channels)
    decoded = codec.decode(codec.encode(IMAGE))
    assert torch.allclose(decoded, as_compressai_decodes(network), atol=1e-4)


def test_latent_codecs_of_compressai_are_registered_without_weights():
    codec = Codec.load("cheng2020-anchor-checkerboard", 3, weights="untrained")
    assert codec.latent_channels == 192 and codec.identity.quality == 3
    for name in ("elic2022-official", "elic2022-chandelier"):
        with pytest.raises(FileNotFoundError, match="no weights"):
            Codec.load(name, 1)


class Gained(ScaleHyperprior):
    """Network whose forward scales the latent outside of its parts."""

    def forward(self, x):
        y = self.g_a(x) * 3
        z_hat, z_likelihoods = self.entropy_bottleneck(self.h_a(y.abs()))
        y_hat, y_likelihoods = self.gaussian_conditional(y, self.h_s(z_hat))
        return {
            "x_hat": self.g_s(y_hat / 3),
            "likelihoods": {"y": y_likelihoods, "z": z_likelihoods},
        }


def without(part):
    network = ScaleHyperprior(8, 12)
    delattr(network, part)
    return network


def with_stride_8():
    network = OwnTransforms()
    network.g_a = nn.Conv2d(3, 24, 8, 8)
    return network


def without_hyperprior():
    network = Cheng2020AnchorCheckerboard(8)
    network.latent_codec = network.latent_codec["y"]
    return network


@pytest.mark.parametrize(
    ("build", "channels", "message"),
    [
        (lambda: without("g_a"), 12, "has no g_a"),
        (lambda: without("h_a"), 12, "has no h_a"),
        (lambda: ScaleHyperprior(8, 12), 16, "not \\(16, 4, 8\\)"),
        (with_stride_8, 24, "stride of 16"),
        (lambda: loud(Gained(8, 12)), 12, "forward of a Gained"),
        (lambda: nn.Conv2d(3, 3, 1), 3, "has no g_a"),
        (without_hyperprior, 8, "CheckerboardLatentCodec"),
    ],
)
def test_a_network_that_is_not_built_as_compressais_is_an_error(build, channels, message):
    with pytest.raises(ValueError, match=message):
        Codec.from_network("mine", build(), channels)


@pytest.mark.parametrize("name", ["mbt2018", "tiny-mbt2018", "My codec", "", "x" * 41])
def test_a_name_that_is_taken_or_malformed_is_an_error(name):
    with pytest.raises(ValueError, match="codec name"):
        Codec.from_network(name, ScaleHyperprior(8, 12), 12)
    with pytest.raises(ValueError, match="codec name"):
        register_codec(name, lambda quality: ScaleHyperprior(8, 12), 12)


PLUGIN = """
from compressai.models import ScaleHyperprior
from cdl_d2.codec import register_codec
register_codec("plugged", lambda quality: ScaleHyperprior(8, 4 * quality), 12, range(3, 4))
"""
READER = """
import sys
from cdl_d2.codec import Bitstream, CodecChoice
stream = Bitstream.load(sys.argv[1])
choice = CodecChoice(stream.codec.name, stream.codec.quality, weights=sys.argv[2])
print(choice.load().decompress(stream).y_hat.sum().item())
"""


def test_an_installed_package_makes_its_codec_known_to_every_process(tmp_path, monkeypatch, server):
    (tmp_path / "own_codecs.py").write_text(PLUGIN)
    info = tmp_path / "own_codecs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-codecs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cdl_d2.codecs]\nplugged = own_codecs\n")
    monkeypatch.syspath_prepend(tmp_path)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, loud(ScaleHyperprior(8, 12)), {})
    codec = CodecChoice("plugged", 3, weights=str(weights)).load()
    codec.compress(IMAGE).save(tmp_path / "image.cdlz")
    installed = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    printed = warm.script(server, installed + READER, tmp_path / "image.cdlz", weights)
    assert float(printed) == codec.encode(IMAGE).y_hat.sum().item() != 0


def test_a_codec_can_be_registered_with_a_coder_of_its_own():
    class OwnCoder(HyperpriorCoder):
        pass

    register_codec("with-coder", lambda quality: ScaleHyperprior(8, 12), 12, coder=OwnCoder)
    codec = Codec.load("with-coder", 1, weights="untrained")
    unregister("with-coder")
    assert type(codec.coder) is OwnCoder


class WithOffset(ScaleHyperprior):
    """A network whose weights have names that end like those of CompressAI's tables."""

    def __init__(self):
        super().__init__(8, 12)
        self.y_offset = nn.Parameter(torch.zeros(12))
        self.scale_table = nn.Parameter(torch.zeros(3))


@pytest.fixture
def with_offset():
    register_codec("with-offset", lambda quality: WithOffset(), 12)
    yield loud(WithOffset())
    unregister("with-offset")


@pytest.mark.parametrize("name", ["y_offset", "scale_table"])
def test_weights_that_are_named_like_tables_are_weights(name, with_offset, tmp_path):
    getattr(with_offset, name).data += 1
    save_weights(tmp_path / "weights.safetensors", with_offset, {})
    state = load_state_dict(tmp_path / "weights.safetensors")
    codec = Codec.load("with-offset", 1, weights=str(tmp_path / "weights.safetensors"))
    assert bool((getattr(codec.network, name) == 1).all())
    assert codec.identity.weights != fingerprint(WithOffset())
    torch.save({k: v for k, v in state.items() if k != name}, tmp_path / "less.pth")
    with pytest.raises(CdlError, match=name):
        Codec.load("with-offset", 1, weights=str(tmp_path / "less.pth"))


def test_what_data_parallel_wraps_and_saves_is_the_network_itself(with_offset, tmp_path):
    wrapped = nn.DataParallel(with_offset)
    torch.save(wrapped.state_dict(), tmp_path / "weights.pth")
    codec = Codec.from_network("mine", wrapped, 12)
    read = Codec.load("with-offset", 1, weights=str(tmp_path / "weights.pth"))
    assert codec.identity.weights == read.identity.weights == fingerprint(with_offset)


def test_a_file_with_a_malformed_codec_name_is_an_error():
    codec = Codec.from_network("mine", loud(ScaleHyperprior(8, 12)), 12)
    content = codec.compress(IMAGE).to_bytes()
    with pytest.raises(BitstreamError):
        Bitstream.from_bytes(content.replace(b"mine", b"M/ne"))
