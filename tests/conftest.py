"""Shared fixtures: fixed seeds, one tiny codec, and a small COCO-format data set."""

import json
import logging
import multiprocessing
import os
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from cdl_d2.codec import Codec
from cdl_d2.codec.entropy.layered_coder import LayeredCoder
from cdl_d2.codec.registry import ARCHITECTURES as CODECS
from cdl_d2.codec.registry import WIRE_NAMES, get_architecture
from tests.documents import warm_server
from tests.warm import shorten_fits

# Codecs that have a `tiny-` variant, by name.
ARCHITECTURES = {a.name: a for a in CODECS.values() if f"tiny-{a.name}" in WIRE_NAMES.values()}
VARIABLE_RATE = {name: a for name, a in ARCHITECTURES.items() if a.is_variable_rate}
GENERATIVE = {name: a for name, a in ARCHITECTURES.items() if name.startswith("zhang2022")}
LAYERED = {name: a for name, a in ARCHITECTURES.items() if a.coder is LayeredCoder}

torch.set_num_threads(1)  # the suite runs in two processes
shorten_fits()
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # seconds to wait for workers that failed
multiprocessing.set_forkserver_preload(["cdl_d2.prediction", "torch.utils.data"])  # once for all


SHARED_BY_PROCESSES = "tests/test_documents.py"  # its tests take long, and share no fixture


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of a file in one process, which builds their fixtures once."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        if file != SHARED_BY_PROCESSES and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(file))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request) -> Iterator[str]:
    """Each way of Python's to start a process, as the default: it depends on system and version."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def caplog(caplog, monkeypatch):
    """Pytest's log capture, which also hears a logger that Detectron2's set-up keeps to itself."""
    monkeypatch.setattr(logging.getLogger("cdl_d2"), "propagate", True)
    return caplog


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a process that serves commands, see tests/warm.py."""
    with warm_server() as address:
        yield address


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two cores, in processes of its own; mark its tests xdist_group("ray")."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The package's own codec, trained."""
    return Codec.load("tiny-bmshj2018-hyperprior", 2)


def loud_network(name: str, seed: int = 0) -> torch.nn.Module:
    """An untrained codec network whose latents, unlike most untrained ones, are not all zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = get_architecture(name).new_network(1)
    last = [m for m in network.g_a.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    last.weight.data *= 30
    for layer in network.g_a.modules():
        if isinstance(layer, torch.nn.Linear):  # of a global vector
            layer.weight.data *= 30
    return network


@cache
def small_network(name: str) -> torch.nn.Module:
    """The network of a small_codec; shared, so that whoever changes it takes a copy."""
    network = loud_network(f"tiny-{name}")
    network.update()
    return network


@cache
def small_codec(name: str, quantization: str = "dequantized") -> Codec:
    """An untrained codec of an architecture, 32 channels wide, whose latents are not all zero."""
    return Codec(small_network(name), f"tiny-{name}", small_quality(name), "mse", quantization)


def small_quality(name: str) -> int:
    """Of a small_codec; lower rates of an untrained variable-rate one have hardly a symbol."""
    return 7 if name in VARIABLE_RATE else 1


def write_bomb(path):
    """A PNG file that says it is of 20,000 x 20,000 pixels."""
    Image.new("L", (1, 1)).save(path)
    content = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content[24:29]
    path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])


def png_of_16_bits() -> bytes:
    """A PNG file of one pixel, 12 of the 16 bits of its colours in use, as Pillow writes none."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + b"\x0f\xff" * 3))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


def fake_ghostscript(folder, monkeypatch):
    """The path of a file that is there once a program called gs was started."""
    (folder / "bin").mkdir()
    program, proof = folder / "bin" / "gs", folder / "proof"
    program.write_text(f"#!/bin/sh\ntouch {proof}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # look for it anew
    return proof


@pytest.fixture
def coco_dataset(tmp_path):
    """Annotations and images: bright rectangles on noise; one image without, one with a crowd."""
    return make_coco_dataset(
        tmp_path / "dataset", sizes=[(96, 128), (128, 96), (80, 100), (96, 96)]
    )


def make_coco_dataset(folder, sizes, boxes_per_image=3, classes=2):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for index, (height, width) in enumerate(sizes):
        picture = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for _ in range(boxes_per_image if index != 2 else 0):
            x, y = int(rng.integers(0, width - 32)), int(rng.integers(0, height - 32))
            w, h = (int(v) for v in rng.integers(16, 32, 2))
            category = int(rng.integers(1, classes + 1))
            picture[y : y + h, x : x + w] = 120 + 100 * (category - 1)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": index,
                "category_id": category,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            annotations.append(annotation)
        if index == 3:
            crowd = {"size": [height, width], "counts": [100, 400, height * width - 500]}
            annotations[-1] |= {"iscrowd": 1, "segmentation": crowd}
        name = f"{index:03d}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        images.append({"id": index, "file_name": name, "height": height, "width": width})
    categories = [{"id": i + 1, "name": f"class{i}"} for i in range(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, folder / "images"
