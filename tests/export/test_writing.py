"""What is written, whatever the model: whole, checked, or nothing."""

import json

import pytest
import torch
from torch import nn

from cdl_d2.export import Axis, Graph, ModelGraphs, export_model, write_graphs
from cdl_d2.export.formats import load

FORMATS = ["torch", pytest.param("onnx", marks=pytest.mark.skipif("not HAS_ONNX"))]
try:
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    HAS_ONNX = True
except ImportError:
    HAS_ONNX = False


class Even(nn.Module):
    """A convolution of stride 2, and half the sum of all."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        feature = self.convolution(x)
        return {"feature": feature, "unused": x, "sum": feature.sum((1, 2, 3))}


class OneSize(nn.Module):
    def forward(self, x):
        return x + torch.ones(6, 8)


class Wrong(nn.Module):
    """Gives something else every time."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def model(module, outputs=("feature", "sum"), card=None, **keywords):
    shape = (Axis("n"), 3, Axis("h", 2), Axis("w", 2))
    graph = Graph("backbone", module, {"x": shape}, outputs, {"n": 2, "h": 3, "w": 4})
    return ModelGraphs((graph,), {"multiple_of_pixels": 2, **(card or {})}, **keywords)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_written_graph_gives_what_the_module_gives_at_any_size(file_format, tmp_path):
    module, lines = Even(), []
    card = write_graphs(model(module), file_format, tmp_path / "a" / "out", lines.append)
    assert card == json.loads((tmp_path / "a" / "out" / "card.json").read_text())
    (described,) = card["graphs"].values()
    assert described["difference"] <= 1e-4 and len(lines) == 1
    assert described["inputs"][0]["shape"] == ["n", 3, "2*h", "2*w"]
    assert [o["shape"] for o in described["outputs"]] == [["n", 4, "h", "w"], ["n"]]
    run = load(tmp_path / "a" / "out" / described["file"])
    for size in ((1, 3, 6, 4), (5, 3, 10, 22)):
        x = torch.randn(size)
        expected = module(x)
        for given, name in zip(run([x]), ("feature", "sum"), strict=True):
            assert torch.allclose(given, expected[name], atol=1e-5)


def test_a_graph_that_differs_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"backbone, exported, differs from the model in x by"):
        write_graphs(model(Wrong(), ("x",)), "torch", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out exists already"):
        write_graphs(model(Even()), "torch", tmp_path / "out")
    with pytest.raises(ValueError, match="'tflite' is not one of onnx, torch"):
        write_graphs(model(Even()), "tflite", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_network_of_one_size_is_exported_for_the_usual_one_or_asks_for_it(tmp_path):
    def make(size, usual=None):
        made = model(OneSize(), ("x",), fixed_size=size, usual_size=usual)
        if size is None:
            return made
        graph = Graph("backbone", OneSize(), {"x": (Axis("n"), 6, 8)}, ("x",), {"n": 2})
        return ModelGraphs((graph,), made.card, size, usual)

    with pytest.raises(ValueError, match=r"cannot be exported.*fixed image size"):
        export_model(make, "torch", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    lines = []
    card = export_model(
        lambda size: make(size, (6, 8)), "torch", tmp_path / "out", None, lines.append
    )
    assert card["size"] == (6, 8) and "for 6 x 8 pixels only" in lines[0]
    assert "smallest_pixels" not in card
