"""Who may know whom: `tools -> d2 -> nn, transfer, codec, data`, and nothing points back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("codec", "data", "nn", "transfer", "d2", "tv", "quickstart")
ALLOWED = {
    "codec": {"codec"},
    "data": {"data", "codec"},
    "nn": {"nn", "codec"},
    "transfer": {"transfer"},
    "d2": {"d2", "codec", "data", "nn", "transfer"},
    "tv": {"tv", "codec", "data", "nn", "transfer"},
    "quickstart": {"quickstart", "codec", "data", "nn", "d2", "tv"},
}


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    plain = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    sources = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    assert not any(n.level for n in sources), "imports are absolute, so that this test sees them"
    return plain | {f"{n.module}.{alias.name}" for n in sources for alias in n.names}


@pytest.mark.parametrize("path", sorted((ROOT / "cdl_d2").rglob("*.py")), ids=str)
def test_a_room_imports_only_rooms_below_it(path):
    room = path.relative_to(ROOT / "cdl_d2").parts[0]
    for module in imported_modules(path):
        parts = module.split(".")
        assert parts[0] != "detectron2" or room == "d2"
        assert parts[0] != "tools"
        assert not module.startswith("torchvision.models.detection") or room == "tv"
        if parts[0] == "cdl_d2" and len(parts) > 1 and parts[1] in ROOMS and room in ROOMS:
            assert parts[1] in ALLOWED[room]


def test_importing_the_package_needs_neither_detectron2_nor_compressai():
    code = (
        "import sys; sys.modules['detectron2'] = sys.modules['compressai'] = None;"
        "import cdl_d2, cdl_d2.codec, cdl_d2.data, cdl_d2.nn, cdl_d2.transfer, cdl_d2.tv,"
        "cdl_d2.quickstart.report"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
