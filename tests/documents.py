"""The documents' blocks of bash and Python, to be run as they stand, in miniature.

Every block runs, unless the line before it says why not: `<!-- not run: REASON -->`. One that
needs Detectron2 says so: `<!-- needs Detectron2 -->`. The blocks of a document run in order, in
one shell.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNNABLE = [ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?^```(bash|python)[^\n]*\n(.*?)^```$", re.M | re.S)
# What makes a training short; everything else is the document's.
MINIATURE = """
set -e
cdl() {
    case "$1 $2" in
        "data draw") command cdl "$@" --count 5 --size 64 64 ;;
        train\\ *) command cdl "$@" SOLVER.MAX_ITER 2 SOLVER.STEPS '(1,)' ;;
        train-torchvision\\ *) command cdl "$@" --iterations 2 ;;
        *) command cdl "$@" ;;
    esac
}
"""


@dataclass(frozen=True)
class Block:
    """What stands between two fences, and the comment before them."""

    language: str
    text: str
    mark: str

    def runs(self, with_detectron2: bool) -> bool:
        return not self.mark.startswith("not run: ") and (
            with_detectron2 or self.mark != "needs Detectron2"
        )


def blocks(document: Path) -> list[Block]:
    return [Block(m[2], m[3], m[1] or "") for m in BLOCK.finditer(document.read_text())]


def run_document(document: Path, folder: Path, with_detectron2: bool) -> None:
    """Run the blocks of a document in a folder, which holds nothing of the checkout."""
    script = [MINIATURE]
    for block in blocks(document):
        if not block.runs(with_detectron2):
            continue
        text = re.sub(r"MAX_ITER: \d+", "MAX_ITER: 2", block.text)
        script.append(text if block.language == "bash" else f"python - <<'END'\n{text}END\n")
    here = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
