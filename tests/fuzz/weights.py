"""Weights: of codecs, of detectors of both backends, pickled arrays, statistics of latents."""

from __future__ import annotations

import io
import pickle
import pickletools
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.codec.io.packed_weights import packed_bytes
from cdl_d2.codec.io.state_dicts import load_into
from cdl_d2.codec.io.weights_file import load_network, save_weights
from cdl_d2.nn.input.codec_stamp import CodecStamp
from cdl_d2.nn.selection.statistics import load_statistics, save_statistics
from cdl_d2.tv.checkpoint import read_checkpoint, save_detector
from cdl_d2.tv.detector_config import DetectorConfig
from tests.conftest import small_codec
from tests.fuzz.mutations import DENSE, mutate_bytes, mutate_values

CODEC = "bmshj2018-hyperprior"
OPCODES = "".join(opcode.code for opcode in pickletools.opcodes).encode("latin1")


@cache
def _codec_network() -> nn.Module:
    """A small network whose latents are not all zero."""
    from compressai.zoo.image import model_architectures

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = model_architectures[CODEC](8, 16)
    network.g_a[-1].weight.data *= 30
    return network


class Network(nn.Module):
    """Something with weights of a few shapes, and the codec that it was trained with."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(40, 30)
        self.stamp = CodecStamp(small_codec(CODEC).identity)


def make_codec_weights() -> dict[str, bytes]:
    """A codec's weights in each form."""
    network, files = _codec_network(), {}
    with tempfile.TemporaryDirectory() as folder:
        save_weights(Path(folder) / "a", network, {})
        files["whole.safetensors"] = (Path(folder) / "a").read_bytes()
    tables = ("_quantized_cdf", "_offset", "_cdf_length", "scale_table")
    state = {k: v for k, v in network.state_dict().items() if not k.endswith(tables)}
    files["packed.safetensors"] = packed_bytes(state)
    return files


def make_hostile_codec_weights() -> dict[str, bytes]:
    """Return the files of make_codec_weights, and one of PyTorch."""
    network = _codec_network()
    network.update()
    return make_codec_weights() | {"saved.pth": _saved({"state_dict": network.state_dict()})}


def read_codec_weights(name: str, content: bytes, folder: Path) -> Any:
    """The latent of an image, there and back, by a codec of these weights."""
    (folder / name).write_bytes(content)
    codec = Codec.load(CODEC, 1, weights=str(folder / name))
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    latent = codec.decompress(codec.compress(image))
    return codec.identity, latent.y_hat, codec.decode(latent)


def make_checkpoints() -> dict[str, bytes]:
    """Checkpoints of both backends."""
    state = Network().state_dict()
    config = DetectorConfig(("a", "b"), "image")
    with tempfile.TemporaryDirectory() as name:
        save_detector(Path(name) / "a.pth", config, state, training={"seed": 1}, iteration=5)
        files = {"torchvision.pth": (Path(name) / "a.pth").read_bytes()}
    files["network.pth"] = _saved({"state_dict": state})
    if find_spec("detectron2"):
        files["detectron2.pth"] = _saved({"model": state, "iteration": 5, "optimizer": {"a": [1]}})
    return files


def read_checkpoint_file(name: str, content: bytes, folder: Path) -> Any:
    """A network after it loaded a file."""
    path, network = folder / name, Network()
    path.write_bytes(content)
    if name == "torchvision.pth":
        checkpoint = read_checkpoint(path)
        load_into(network, checkpoint["model"], str(path))
        return checkpoint["config"], network.state_dict()
    if name == "network.pth":
        load_network(network, path)
        return dict(network.state_dict())
    from cdl_d2.d2.checkpoint import load_all_weights

    load_all_weights(network, str(path))
    return dict(network.state_dict())


def make_pickles() -> dict[str, bytes]:
    """Return pickled arrays like those of Detectron2's model zoo."""
    state = {k: v.numpy() for k, v in Network().state_dict().items()}
    content = {"model": state, "__author__": "someone"}
    blobs = {"blobs": state, "iteration": np.float32(3)}
    files = {f"{n}.pkl": pickle.dumps(content, protocol=n) for n in (0, 2, 4)}
    return files | {"caffe2.pkl": pickle.dumps(blobs, protocol=2)}


def mutate_pickle(rng: Random, content: bytes) -> bytes:
    """Change bytes of a pickle, or opcodes near its beginning and end."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, content)
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        position = rng.choice([rng.randrange(200), len(damaged) - 1 - rng.randrange(60)])
        damaged[position : position + rng.randint(0, 2)] = bytes([rng.choice(OPCODES)])
    return bytes(damaged)


def make_statistics() -> dict[str, bytes]:
    """Mean and deviation of latents."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a"
        values = torch.rand(2, 192, generator=torch.Generator().manual_seed(0))
        save_statistics(path, *values, small_codec(CODEC).identity)
        return {"statistics": path.read_bytes()}


def read_statistics(name: str, content: bytes, folder: Path) -> Any:
    """Mean and deviation of a file."""
    (folder / name).write_bytes(content)
    return load_statistics(folder / name, small_codec(CODEC).identity)


def forge_weights(rng: Random, content: bytes) -> bytes:
    """Change tensors or values in a file of torch.save or safetensors."""
    if content[:2] == b"PK":
        return _tried(rng, lambda: _saved(mutate_values(rng, _loaded(content))))
    return _tried(rng, lambda: _forged_tensors(rng, content))


def _forged_tensors(rng: Random, content: bytes) -> bytes:
    state = load(content)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(sorted(state))
        if rng.random() < 0.2:
            state[rng.choice(["a", "", f"{name}.scale", "h_a.0.weight"])] = state.pop(name)
        else:
            state[name] = rng.choice(DENSE)(rng, state[name])
    return save({k: v.contiguous() for k, v in state.items()}, metadata={"packed": "int8"})


def _tried(rng: Random, forge: Callable[[], bytes]) -> bytes:
    """Return the result of the first change that the format supports."""
    for _ in range(100):
        try:
            return forge()
        except (AttributeError, RuntimeError, ValueError, TypeError, NotImplementedError):
            continue
    raise AssertionError("no change was possible")


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _loaded(content: bytes) -> Any:
    values = torch.load(io.BytesIO(content), weights_only=True)
    return {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
