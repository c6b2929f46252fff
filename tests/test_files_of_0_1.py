"""Files that version 0.1 wrote are read: tests/files_of_0_1 holds a small one of each kind."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cdl_d2.codec import Bitstream, Codec, CodecChoice
from cdl_d2.data import LatentStore, Variant
from cdl_d2.nn import LatentInput
from cdl_d2.nn.selection.channel_ranking import ChannelRanking
from cdl_d2.nn.selection.statistics import load_statistics
from cdl_d2.tv.detector_config import DetectorConfig

FILES = Path(__file__).parent / "files_of_0_1"


@pytest.fixture(scope="module")
def codec():
    return Codec.load("tiny-bmshj2018-hyperprior", 2)


@pytest.fixture(scope="module")
def latent(codec):
    image = pil_to_tensor(Image.open(FILES / "image.png")).float() / 255
    return codec.encode(image)


def test_a_bitstream_is_decoded_to_the_same_latent(codec, latent):
    stream = Bitstream.from_bytes((FILES / "image.cdlz").read_bytes())
    assert torch.equal(codec.decompress(stream).y_hat, latent.y_hat)


@pytest.mark.parametrize("kind", ["arrays", "bitstreams"])
def test_a_store_holds_the_same_latents(codec, latent, kind):
    store = LatentStore(FILES / kind, codec)
    stored = store.read("0.png", Variant())["latent"]
    assert torch.equal(stored, latent.y_hat[:, : stored.shape[1], : stored.shape[2]])


def test_a_ranking_and_statistics_are_of_their_codec(codec):
    assert ChannelRanking.load(FILES / "ranking.json", codec.identity).channels[0] == 0
    mean, std = load_statistics(FILES / "statistics.safetensors", codec.identity)
    assert mean.eq(0).all() and std.eq(1).all()


def test_weights_name_their_codec(codec):
    network = LatentInput(codec.latent_channels, codec.identity)
    network.load_state_dict(torch.load(FILES / "latent_input.pth", weights_only=True))
    assert network.codec.identities == (codec.identity,)


def test_a_detector_of_torchvision_names_its_codec():
    codec = {"name": "mbt2018", "quality": 4, "meaning": "decoded"}
    content = {"classes": ["cat"], "domain": "latent", "codec": codec, "architecture": {}}
    assert DetectorConfig.from_dict(content).codec == CodecChoice("mbt2018", 4)


def test_a_config_of_detectron2_names_its_codec(tmp_path):
    pytest.importorskip("detectron2")
    from cdl_d2.d2.config_files import read_config

    path = tmp_path / "config.yaml"
    path.write_text("MODEL: {CODEC: {MEANING: rounded}}\n", encoding="utf-8")
    assert read_config(path).MODEL.CODEC.QUANTIZATION == "rounded"
    changed = read_config(path, ["MODEL.CODEC.MEANING", "decoded"])
    assert changed.MODEL.CODEC.QUANTIZATION == "dequantized"
