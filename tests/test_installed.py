"""The wheel, in an environment without the checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent


def test_the_wheel_brings_command_configs_and_codec(tmp_path):
    source, home, work = tmp_path / "source", tmp_path / "venv", tmp_path / "work"
    for part in ("cdl_d2", "configs"):  # a copy, since building leaves files in it
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=ignored)
    for part in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, source)
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", *tmp_path.glob("*.whl"))
    # Packages of this environment behind its own; but not the files that make the checkout known.
    [packages] = home.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path and Path(path) != ROOT]
    (packages / "shared.pth").write_text("\n".join(shared))
    assert Path(run(python, "-c", "import cdl_d2; print(cdl_d2.__file__)")).is_relative_to(packages)

    cdl = home / "bin" / "cdl"
    assert "codec" in run(cdl, "--help")
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(work / "drawn.png")
    codec = ("--codec", "tiny-bmshj2018-hyperprior", "--quality", "2")
    run(cdl, "codec", "compress", "drawn.png", "--output", "files", *codec)
    assert (work / "files" / "drawn.cdlz").stat().st_size > 58
    if importlib.util.find_spec("detectron2"):
        config = "detection/small/latent_mask_rcnn_small.yaml"
        run(cdl, "count", "--config-file", config, "--size", "64", "64")
