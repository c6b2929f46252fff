"""Draw packages, their dependencies and lines of code to docs/architecture.png.

Dependencies that follow from others (a imports b, b imports c: a may import c) are left out.

python docs/draw_architecture.py
"""

import ast
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PACKAGE = Path(__file__).parent.parent / "cdl_d2"
# From the base to the top.
ROWS = [["codec"], ["nn", "transfer", "data"], ["metrics", "export"], ["d2", "tv"], ["model_zoo"]]
ROWS += [["prediction"], ["bench"], ["cli"]]
COLOURS = {"d2": "#fbe3d2", "tv": "#fbe3d2"}
COLOURS |= dict.fromkeys(("bench", "export", "model_zoo", "prediction"), "#eeeeee")
COLOURS |= {"cli": "#e2f0d9"}
WIDTH, HEIGHT, PAD = 2.6, 1.75, 0.1


def imported_packages(path: Path) -> set[str]:
    """Return the packages that a file imports, except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in modules if name.startswith("cdl_d2.")}


def read_packages() -> tuple[dict[str, dict[str, int]], set[tuple[str, str]]]:
    """Return lines of code by package and sub-package ("" for its own files), and the imports."""
    lines: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    arrows = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        package, *inner = path.relative_to(PACKAGE).parts
        if inner:
            lines[package][inner[0] if len(inner) > 1 else ""] += len(
                path.read_text(encoding="utf-8").splitlines()
            )
            arrows |= {(package, other) for other in imported_packages(path) if other != package}
    existing = {package for row in ROWS for package in row} & lines.keys()
    return lines, {(a, b) for a, b in arrows if a in existing and b in existing}


def without_implied(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the dependencies that do not follow from others."""

    def reaches(start: str, end: str) -> bool:
        return any(a == start and (b == end or reaches(b, end)) for a, b in arrows)

    return {(a, b) for a, b in arrows if not any(reaches(c, b) for d, c in arrows if d == a)}


def draw(lines: dict[str, dict[str, int]], arrows: set[tuple[str, str]]) -> Figure:
    figure = Figure(figsize=(10, 15), layout="constrained")
    axis = figure.subplots()
    rows = [[package for package in row if package in lines] for row in ROWS]
    positions = {
        package: ((i - (len(row) - 1) / 2) * 4, level * 2.6)
        for level, row in enumerate(row for row in rows if row)
        for i, package in enumerate(row)
    }
    for package, other in sorted(without_implied(arrows)):
        (x, y), (to_x, to_y) = positions[package], positions[other]
        start = x + (to_x - x) * 0.15, y - HEIGHT / 2 - PAD
        end = to_x - (to_x - x) * 0.15, to_y + HEIGHT / 2 + PAD
        axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444"})
    for package, (x, y) in positions.items():
        corner, form = (x - WIDTH / 2, y - HEIGHT / 2), f"round,pad={PAD}"
        colour = {"fc": COLOURS.get(package, "#dcebf7"), "ec": "#555555"}
        axis.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, form, **colour))
        inner = "\n".join(f"{name}: {count}" for name, count in lines[package].items() if name)
        text = f"{sum(lines[package].values())} lines\n{inner}"
        axis.text(x, y + 0.72, f"cdl_d2.{package}", ha="center", va="center", weight="bold")
        axis.text(x, y + 0.55, text, ha="center", va="top", fontsize=8)
    axis.set(xlim=(-5.8, 5.8), ylim=(-1.1, max(y for _, y in positions.values()) + 1.1))
    axis.axis("off")
    return figure


if __name__ == "__main__":
    draw(*read_packages()).savefig(Path(__file__).parent / "architecture.png", dpi=80)
