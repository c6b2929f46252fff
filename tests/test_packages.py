"""Dependencies between packages and sub-packages: imports point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cdl_d2"
SHARED = {  # root modules that every package may import
    "backend",
    "device",
    "download",
    "errors",
    "files",
    "memory",
    "packaged",
    "ray_actors",
    "seeds",
    "tasks",
    "workers",
    "yaml_text",
}
BASE = {"codec.registry", "codec.latent"}  # import nothing else of codec
CORE = {"codec", "nn", "transfer", "data", "metrics"}
D2_CONFIG = {  # configs, and builders that read them
    *("d2.config", "d2.config_files", "d2.detectron2_zoo", "d2.checkpoint"),
    *("d2.building", "d2.model_input"),
    *("d2.lazy_config", "d2.lazy_saving", "d2.lazy_text"),
}
# Packages that the files of a package may import, besides their own and SHARED; a name includes its
# sub-packages.
ALLOWED = {
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
    "conversion": CORE | {"export"},
    "tv": CORE | {"export", "conversion"},
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
    | {"d2.modeling", "d2.data", "d2.evaluation", "d2.tasks", "d2.engine", "export"}
    | {"conversion"},
    "model_zoo": CORE | {"export", "conversion", "d2", "tv"},
    "prediction.tasks": CORE | {"prediction.results"},
    "prediction": CORE | {"export", "d2", "tv", "model_zoo", "prediction.tasks"},
    "bench": CORE | {"export", "conversion", "d2", "tv", "model_zoo", "prediction"},
    "bench.quickstart": CORE | {"d2", "tv", "model_zoo", "prediction", "bench"},
    "cli": CORE | {"conversion", "d2", "tv", "model_zoo", "prediction", "bench", "export"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def find_package(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).parts[:-1])


def find_imported_package(name: str) -> str:
    """Return the package of a name below `cdl_d2`: `nn.input` for `nn.input.sample.Sample`."""
    package = ""
    for part in name.split("."):
        if not (PACKAGE / package.replace(".", "/") / part).is_dir():
            break
        package = f"{package}.{part}".lstrip(".")
    return package


def imported_modules(path: Path) -> set[str]:
    """Return the full names of all imports of a file, except under `if TYPE_CHECKING`."""
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
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_imports_only_what_it_is_allowed_to(path):
    package = find_package(path)
    for module in imported_modules(path):
        root, _, name = module.partition(".")
        assert root != "detectron2" or package.split(".")[0] == "d2"
        assert not module.startswith("torchvision.models.detection") or package == "tv"
        assert root != "tools"
        if root != "cdl_d2" or package == "" or allows(SHARED, name):
            continue
        imported = find_imported_package(name)
        exported = path.name == "__init__.py" and imported.startswith(f"{package}.")
        allowed = exported or imported == package or allows(ALLOWED[package], name)
        assert allowed, f"{package} imports {name}"


def test_dependencies_have_no_cycle():
    dependencies = {
        package: {other for other in ALLOWED if other != package and allows(allowed, other)}
        for package, allowed in ALLOWED.items()
    }
    ordered: list[str] = []
    while len(ordered) < len(dependencies):
        free = [p for p in dependencies if p not in ordered and dependencies[p] <= set(ordered)]
        assert free, f"a cycle among {sorted(set(dependencies) - set(ordered))}"
        ordered += free


def test_importing_the_package_needs_neither_detectron2_nor_slow_packages():
    names = ("detectron2", "compressai", "timm", "scipy", "pandas", "matplotlib", "onnxruntime")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({names}));"
        "from cdl_d2 import Predictor, convert;"
        "import cdl_d2.codec, cdl_d2.data, cdl_d2.nn, cdl_d2.transfer, cdl_d2.tv;"
        "del sys.modules['matplotlib']; import cdl_d2.bench.quickstart.quickstart"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
