"""The notebooks of examples/ run, and hold no outputs."""

import json

import pytest

from tests.documents import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells_of(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_in_their_order(notebook, tmp_path, monkeypatch):
    if notebook.stem == "rate_accuracy":
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells_of(notebook)):
        exec(compile("".join(cell["source"]), f"{notebook.name}:{number}", "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(notebook):
    assert all(not cell["outputs"] and not cell["execution_count"] for cell in cells_of(notebook))
