"""The documents' blocks of bash and Python, to be run as they stand, in miniature.

Every block runs, unless the line before it says why not: `<!-- not run: REASON -->`. One that
needs optional packages names them: `<!-- needs Detectron2 -->`, `<!-- needs onnx, onnxruntime -->`.
The blocks of a document run in order, in one shell.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import warm

ROOT = Path(__file__).parent.parent
RUNNABLE = [
    ROOT / "README.md",
    ROOT / "docs/codecs.md",
    *sorted((ROOT / "docs/tutorials").glob("*.md")),
]
BLOCK = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?^```(bash|python)[^\n]*\n(.*?)^```$", re.M | re.S)
# What makes a training short, and replaces what is downloaded; everything else is the document's.
MINIATURE = """
set -e
warm() { "$PYTHON" -I -S -c "$CLIENT" "$SERVER" "$@"; }
cdl() {
    local words=("$@")
    case "$1 $2" in
        "data synthesize")
            local count=5  # an image per class; enough to fit a bridge
            if [[ "$*" = *detection*val* ]]; then count=3; fi
            if [[ "$*" = *"--output shapes" ]]; then count=16; fi  # a conversion needs them
            for i in "${!words[@]}"; do
                if [ "${words[i]}" = --count ]; then words[i+1]=$count; fi
            done
            words+=(--size 64 64) ;;
        "data encode") words+=(--workers 0 --short-edges 64) ;;
        convert\\ COCO-*)
            [ -d zoo ] || warm python <<< "from tests.documents import *; save_zoo_model('zoo')"
            words[1]=zoo ;;
        train\\ *)
            words+=(SOLVER.MAX_ITER 1 SOLVER.STEPS '()' TEST.DETECTIONS_PER_IMAGE 5)
            if [[ "$*" = *detection/small/* ]]; then
                words+=(INPUT.MIN_SIZE_TRAIN '(64,)' INPUT.MIN_SIZE_TEST 64)
            fi ;;
        train-torchvision\\ *)
            words+=(--iterations 1 --short-edges 64 --short-edge-val 64) ;;
    esac
    for i in "${!words[@]}"; do
        case "${words[i]}" in
            --minutes) words[i]=--iterations; words[i+1]=1 ;;
            bmshj2018-hyperprior)
                if [[ "$*" != *--codec-weights* ]]; then
                    words[i]=tiny-bmshj2018-hyperprior words[i+2]=2  # --quality
                fi ;;
        esac
    done
    warm cdl "${words[@]}"
}
"""


@dataclass(frozen=True)
class Block:
    """Text between two fences, and the comment before them."""

    language: str
    text: str
    mark: str

    @property
    def needs(self) -> list[str]:
        """Names of the optional packages without which it does not run."""
        return self.mark.removeprefix("needs ").split(", ") if self.mark[:6] == "needs " else []

    @property
    def missing(self) -> list[str]:
        """Those that are not installed."""
        return [name for name in self.needs if not importlib.util.find_spec(name.lower())]

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("not run: ") and not self.missing


def blocks(document: Path) -> list[Block]:
    return [
        Block(m[2], m[3], m[1] or "") for m in BLOCK.finditer(document.read_text(encoding="utf-8"))
    ]


@contextmanager
def warm_server() -> Iterator[str]:
    """The address of a process that serves commands, see tests/warm.py."""
    with tempfile.TemporaryDirectory() as place:
        address = f"{place}/server"
        command = [sys.executable, "-c", f"from tests.warm import serve; serve({address!r})"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        ) as server:
            try:
                assert server.stdout.readline() == "ready\n"
                yield address
            finally:
                server.kill()


def run_document(document: Path, folder: Path, server: str) -> None:
    """Run the blocks of a document in a folder, which holds nothing of the checkout."""
    script = [MINIATURE]
    for block in blocks(document):
        if block.runs:
            text = re.sub(r"MAX_ITER: \d+", "MAX_ITER: 1", block.text)
            script.append(text if block.language == "bash" else f"warm python <<'END'\n{text}END")
    names = {"PYTHON": sys.executable, "CLIENT": warm.CLIENT, "SERVER": server}
    names["CDL_HOME"] = str(folder / "cdl_home")
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=os.environ | names,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def save_zoo_model(folder: str) -> None:
    """Write a small detector in the place of one of Detectron2's model zoo."""
    from cdl_d2.d2 import SafeCheckpointer
    from tests.d2.conftest import small_cfg, small_model

    cfg, path = small_cfg("pixel", "INPUT.MIN_SIZE_TEST", 64), Path(folder)
    path.mkdir()
    SafeCheckpointer(small_model(cfg), folder).save("model_final")
    (path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")


def commands_of(document: Path, folder: Path) -> list[list[str]]:
    """The words of each `cdl` command of a document, as bash passes them on; none is run."""
    script = ["cdl() { printf '%s\\0' \"$@\" $'\\n' >> words; }"]
    script += [block.text for block in blocks(document) if block.language == "bash"]
    subprocess.run(["bash", "-c", "\n".join(script)], cwd=folder, check=True)
    words = (folder / "words").read_text(encoding="utf-8") if (folder / "words").exists() else ""
    return [command.strip("\0").split("\0") for command in words.split("\n\0") if command]
