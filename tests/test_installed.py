"""The wheel, in an environment with its dependencies and nothing else."""

import os
import re
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cdl_d2.codec import Bitstream

ROOT = Path(__file__).parent.parent


def run(*command: object) -> str:
    """Run a program that knows nothing of the checkout; its output."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd="/", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A virtual environment with the wheel and links to the distributions that it requires."""
    folder = tmp_path_factory.mktemp("installed")
    source, home = folder / "source", folder / "environment"
    for part in ("cdl_d2", "configs"):  # a copy, since building leaves files in it
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=ignored)
    for part in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    venv.create(home, symlinks=True)
    [wheel] = folder.glob("*.whl")
    python = home / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", wheel)
    names: dict[str, set[str]] = {}
    for line in metadata.PathDistribution(next(packages(home).glob("cdl_d2-*"))).requires:
        add_required(Requirement(line), names)
    for name in names:
        link(metadata.distribution(name), packages(home))
    return home


def packages(home: Path) -> Path:
    return next(home.glob("lib/python*/site-packages"))


def add_required(line: Requirement, names: dict[str, set[str]], extras=frozenset([""])) -> None:
    """Add the distribution that a line of requirements needs for any of some extras, and those
    that it needs in turn, to the extras of each by name."""
    if line.marker and not any(line.marker.evaluate({"extra": extra}) for extra in extras):
        return
    known = names.setdefault(canonicalize_name(line.name), set())
    new = {"", *line.extras} - known
    known |= new
    for inner in metadata.requires(line.name) or () if new else ():
        add_required(Requirement(inner), names, new)


def link(distribution: metadata.Distribution, folder: Path) -> None:
    """Link a distribution's modules and metadata."""
    for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        if not (folder / name).exists() and not name.endswith(".pth"):
            (folder / name).symlink_to(distribution.locate_file(name))


def test_the_wheel_has_every_file_of_the_package(home):
    def names(root):
        files = (Path(f, name) for f, _, names in os.walk(root, followlinks=True) for name in names)
        return {str(f.relative_to(root)) for f in files if "__pycache__" not in f.parts}

    assert names(packages(home) / "cdl_d2") == names(ROOT / "cdl_d2")


def test_the_quick_start_compresses_detects_and_reports(home, tmp_path):
    names = ["cdl_d2", "torch", "cv2", "detectron2", "fvcore", "onnx", "pytest", "timm"]
    code = f"from importlib.util import find_spec; print(*filter(find_spec, {names}))"
    assert run(home / "bin" / "python", "-c", code).split() == ["cdl_d2", "torch"]
    out = tmp_path / "look"
    printed = run(home / "bin" / "cdl", "quickstart", "--output", out)
    rows = re.findall(r"^(\S.*?)  +([\d.]+) +([\d.]+) ", printed, re.MULTILINE)
    assert len(rows) == 4 and all(float(box) > 20 for _, box, _ in rows)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == page.count('alt="val_') == 36 and page.count("<tr>") == 5
    assert len(list((out / "coded").iterdir())) == 12
    assert Bitstream.load(out / "coded" / "val_0001.cdlz").image_size == (256, 256)
