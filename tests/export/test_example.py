"""The example that runs an exported detector with onnxruntime and numpy alone."""

import importlib.util
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from cdl_d2.codec import Codec
from cdl_d2.codec.io.weights_file import save_weights
from cdl_d2.errors import CdlError
from cdl_d2.files import write_json
from cdl_d2.tv.export import detector_graphs
from tests.conftest import loud_network
from tests.export.runtimes import run_whole
from tests.tv.conftest import shallow, tiny_detector

PATH = Path(__file__).parents[2] / "examples/onnx_detect.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    spec = importlib.util.spec_from_file_location("onnx_detect", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_bitstream_and_its_stored_latent_give_the_same_objects(example, tmp_path, capsys):
    detector = shallow(tiny_detector()).eval()
    graphs = detector_graphs(detector)
    run_whole(graphs.whole[0], tmp_path)
    files = {"detector": {"file": "detector.onnx"}}
    card = graphs.card | {"class_names": ["disc", "square"], "graphs": files}
    write_json(tmp_path / "card.json", card)
    codec = detector.coded_input.codec
    stream = codec.compress(torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0)))
    stream.save(tmp_path / "image.cdlz")
    latent = codec.decompress(stream)
    np.savez(tmp_path / "image.npz", y_hat=latent.cells.numpy(), image_size=latent.image_size)
    printed = []
    for name in ("image.cdlz", "image.npz"):
        example.main(tmp_path, tmp_path / name)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert all(line.startswith(("disc", "square")) for line in printed[0].splitlines())
    assert "pixels" in printed[0]


def test_a_codec_with_weights_of_its_own_is_read(example, tmp_path):
    name, weights = "tiny-bmshj2018-hyperprior", tmp_path / "own.safetensors"
    save_weights(weights, loud_network(name), {})
    own = Codec.load(name, 2, weights=str(weights))
    stream = own.compress(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)))
    stream.save(tmp_path / "image.cdlz")
    card = {"codec": asdict(own.identity)}
    y_hat, size = example.read_latent(tmp_path / "image.cdlz", card, weights)
    assert np.array_equal(y_hat, own.decompress(stream).cells.numpy()) and size == (32, 32)
    with pytest.raises(CdlError):
        example.read_latent(tmp_path / "image.cdlz", card)


def test_a_mask_is_pasted_on_its_box(example):
    mask = np.zeros((28, 28), dtype=np.float32)
    mask[:, :14] = 1  # the left half
    pasted = example.paste(mask, (10, 20, 30, 40), (50, 60))
    expected = np.zeros((50, 60), dtype=bool)
    expected[20:40, 10:20] = True
    assert (pasted == expected).mean() > 0.99 and pasted[25:35, 12:18].all()
