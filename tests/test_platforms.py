"""What the package needs of a system: any locale, Python from 3.10 on, Linux or macOS."""

import ast
import importlib
import json
import re
import subprocess
import sys

import pytest
from PIL import Image

import cdl_d2
from tests.commands import ROOT, in_checkout
from tests.prediction.conftest import save_tiny

FILES = [
    path
    for folder in ("cdl_d2", "tools", "docs", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.name.startswith("test_")
]


def follows_the_locale(call: ast.Call) -> bool:
    """Return whether a call opens a text file, or pipes of text, without saying the encoding."""
    name = ast.unparse(call.func)
    method, options = name.rpartition(".")[2], {keyword.arg for keyword in call.keywords}
    if "encoding" in options:
        return False
    if method == "open":
        mode = call.args[name == "open" :][:1]
        is_text = not mode or "b" not in ast.unparse(mode[0])
        return is_text and not re.match(r"os\.|Image\.|tarfile\.|_Tar\.|build_opener", name)
    if method in ("read_text", "write_text"):
        return "." in name and len(call.args) == (method == "write_text")
    return method in ("run", "Popen", "check_output") and "text" in options


def test_text_has_an_encoding_and_the_syntax_is_that_of_the_oldest_python():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert [ast.unparse(call) for call in calls if follows_the_locale(call)] == [], path


def test_names_are_utf8_whatever_the_locale(tmp_path):
    model, folder = save_tiny(tmp_path / "modèle [1]"), tmp_path / "фото [1] é"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "一 ü[a].png")
    output = tmp_path / "résultats"
    words = "predict", model, folder, "--output", output, "--classes", "é", "二"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "cdl_d2.cli.start", *map(str, words)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", **in_checkout(**locale))
    assert done.returncode == 0, done.stderr
    assert "résultats" in done.stdout
    content = json.loads((output / "images.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in content["images"]] == ["一 ü[a].png"]
    assert [category["name"] for category in content["categories"]] == ["é", "二"]


def test_windows_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match=r"^[^\n]*Linux and macOS[^\n]*$"):
        importlib.reload(cdl_d2)
