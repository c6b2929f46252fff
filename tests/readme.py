"""The README's commands, to be run as they stand, in miniature."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
# What makes a training short; everything else is the README's.
MINIATURE = [
    (r"(make_sample_data\.py .*)--count \d+", r"\1--count 5 --size 64 64"),
    (r"(tools/train_torchvision\.py)", r"\1 --iterations 2"),
    (r"(tools/train_net\.py (?:.|\n)*?\$OPTS)", r"\1 SOLVER.MAX_ITER 2 SOLVER.STEPS '(1,)'"),
]


def blocks() -> dict[str, str]:
    """The bash blocks by the name that stands before them in `<!-- runs: NAME -->`."""
    found = re.findall(r"<!-- runs: (\w+) -->\n```bash\n(.*?)```", TEXT, re.DOTALL)
    return dict(found)


def run_blocks(folder: Path, *names: str) -> str:
    """Run blocks one after another in one shell, in a folder with tools and configs; the output."""
    for part in ("tools", "configs"):
        if not (folder / part).exists():
            (folder / part).symlink_to(ROOT / part)
    script = "\n".join(["set -e", *(blocks()[name] for name in names)])
    for pattern, replacement in MINIATURE:
        script = re.sub(pattern, replacement, script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout
