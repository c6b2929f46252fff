"""Small trained models of both backends, and an archive."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cdl_d2.codec.io.image_files import read_image
from cdl_d2.tv import build_detector
from cdl_d2.tv.checkpoint import save_detector
from tests.tv.conftest import tiny_config

SIZES = [(64, 96), (70, 50), (64, 96), (96, 64), (64, 64)]


def save_tiny(folder, domain="latent"):
    """A checkpoint of the torchvision backend with random weights that says what it looks at."""
    config = tiny_config(domain)
    config = replace(config, architecture=replace(config.architecture, proposals=20))
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    training = {"short_edge_val": 64, "max_size": 128}
    state = build_detector(config).state_dict()
    save_detector(folder / "model_final.pth", config, state, training=training)
    return folder


@pytest.fixture(scope="session")
def latent_model(tmp_path_factory):
    """The folder of a detector that reads latents."""
    return save_tiny(tmp_path_factory.mktemp("latent"))


@pytest.fixture(scope="session")
def pixel_model(tmp_path_factory):
    """The folder of a detector on original images."""
    return save_tiny(tmp_path_factory.mktemp("pixel"), "image")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with a folder of images; noise, of several sizes."""
    folder, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    (folder / "inner").mkdir()
    for index, (height, width) in enumerate(SIZES):
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("inner" if index > 2 else "") / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def coded(images, codec, tmp_path_factory):
    """The same as bitstreams."""
    folder = tmp_path_factory.mktemp("coded")
    for path in images.rglob("*.png"):
        target = (folder / path.relative_to(images)).with_suffix(".cdlz")
        target.parent.mkdir(exist_ok=True)
        codec.compress(read_image(path).float() / 255).save(target)
    return folder
