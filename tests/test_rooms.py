"""Who may know whom: the arrows of the house, rooms and sub-rooms alike; nothing points back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cdl_d2"
EVERYONE = {
    "backend",
    "device",
    "download",
    "errors",
    "files",
    "packaged",
    "ray_actors",
    "seeds",
    "tasks",
    "workers",
    "yaml_text",
}
BASE = {"codec.registry", "codec.latent"}  # of the codec: knows nothing else of it
CORE = {"codec", "nn", "transfer", "data", "metrics"}
D2_CONFIG = {  # of d2: configs, and what is built from them by name
    *("d2.config", "d2.config_files", "d2.detectron2_zoo", "d2.checkpoint"),
    *("d2.building", "d2.model_input"),
}
# What a room's files may import, beside their own room and EVERYONE. A name stands for all in it.
ARROWS = {
    "codec.entropy": BASE,
    "codec.bitstream": BASE | {"codec.entropy"},
    "codec.generative": set(),
    "codec.io": BASE,
    "codec": {"codec.entropy", "codec.bitstream", "codec.generative", "codec.io"},
    "codec.learning": {"codec"},
    "nn.selection": {"codec", "nn.input"},
    "nn.input": {"codec"},
    "nn.backbones": {"codec", "nn.input"},
    "nn.bridge": {"codec", "nn.input", "nn.backbones"},
    "nn": {"codec", "nn.input", "nn.selection", "nn.backbones", "nn.bridge"},
    "transfer": set(),
    "data.store": {"codec"},
    "data.datasets": {"codec"},
    "data": {"data.store", "data.datasets"},
    "metrics": {"codec", "data"},
    "export": {"codec", "nn"},
    "tv": CORE | {"export"},
    "d2": CORE,
    "d2.modeling.backbone": CORE | D2_CONFIG,
    "d2.modeling": CORE | D2_CONFIG | {"d2.modeling.backbone"},
    "d2.modeling.meta_arch": CORE | D2_CONFIG | {"d2.modeling"},
    "d2.data": CORE | D2_CONFIG,
    "d2.evaluation": CORE | {"d2.data"},
    "d2.export": CORE | {"d2.modeling", "export"},
    "d2.tasks": CORE
    | D2_CONFIG
    | {"d2.modeling", "d2.data", "d2.evaluation", "d2.export", "export"},
    "d2.engine": CORE
    | D2_CONFIG
    | {"d2.modeling", "d2.data", "d2.evaluation", "d2.tasks", "export"},
    "d2.applications": CORE
    | D2_CONFIG
    | {"d2.modeling", "d2.data", "d2.evaluation", "d2.tasks", "d2.engine", "export"},
    "model_zoo": CORE | {"export", "d2", "tv"},
    "prediction.tasks": CORE | {"prediction.results"},
    "prediction": CORE | {"export", "d2", "tv", "model_zoo", "prediction.tasks"},
    "bench": CORE | {"export", "d2", "tv", "model_zoo", "prediction"},
    "bench.quickstart": CORE | {"d2", "tv", "model_zoo", "prediction", "bench"},
    "cli": CORE | {"d2", "tv", "model_zoo", "prediction", "bench", "export"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).parts[:-1])


def room_of_import(name: str) -> str:
    """The room of a name behind `cdl_d2.`, such as `nn` for `nn.latent_input.LatentInput`."""
    room = ""
    for part in name.split("."):
        if not (PACKAGE / room.replace(".", "/") / part).is_dir():
            break
        room = f"{room}.{part}".lstrip(".")
    return room


def imported_modules(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever it does; but not for type checkers only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    nodes = list(ast.walk(tree))
    plain = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    sources = [n for n in nodes if isinstance(n, ast.ImportFrom)]
    assert not any(n.level for n in sources), "imports are absolute, so that this test sees them"
    return plain | {f"{n.module}.{alias.name}" for n in sources for alias in n.names}


def allows(allowed: set[str], module: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_its_arrows_point_to(path):
    room = room_of(path)
    for module in imported_modules(path):
        first, _, rest = module.partition(".")
        assert first != "detectron2" or room.split(".")[0] == "d2"
        assert not module.startswith("torchvision.models.detection") or room == "tv"
        assert first != "tools"
        if first != "cdl_d2" or room == "" or allows(EVERYONE, rest):
            continue
        theirs = room_of_import(rest)
        shown = path.name == "__init__.py" and theirs.startswith(
            f"{room}."
        )  # by a room, of its own
        assert shown or theirs == room or allows(ARROWS[room], rest), f"{room} imports {rest}"


def test_no_arrow_points_back():
    """The rooms can be put in an order in which each knows only those before it."""
    known = {
        room: {other for other in ARROWS if other != room and allows(arrows, other)}
        for room, arrows in ARROWS.items()
    }
    ordered: list[str] = []
    while len(ordered) < len(known):
        free = [room for room in known if room not in ordered and known[room] <= set(ordered)]
        assert free, f"these know each other: {sorted(set(known) - set(ordered))}"
        ordered += free


def test_importing_the_package_needs_neither_detectron2_nor_compressai():
    code = (
        "import sys; sys.modules['detectron2'] = sys.modules['compressai'] = None;"
        "import cdl_d2, cdl_d2.codec, cdl_d2.data, cdl_d2.nn, cdl_d2.transfer, cdl_d2.tv,"
        "cdl_d2.bench.quickstart.quickstart"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
