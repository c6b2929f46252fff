"""Draw the rooms of the package, who imports whom, and lines of code, to docs/architecture.png.

An arrow that follows from others (a imports b, b imports c: a may import c) is left out.

python docs/draw_architecture.py
"""

import ast
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PACKAGE = Path(__file__).parent.parent / "cdl_d2"
# From the base to the top, as far as they exist.
ROWS = [["codec"], ["nn", "transfer", "data"], ["d2", "export", "tv"], ["model_zoo"]]
ROWS += [["prediction"], ["bench"], ["cli"]]
COLOURS = {"d2": "#fbe3d2", "tv": "#fbe3d2"}
COLOURS |= dict.fromkeys(("bench", "export", "model_zoo", "prediction"), "#eeeeee")
COLOURS |= {"cli": "#e2f0d9"}
WIDTH, HEIGHT, PAD = 2.6, 1.2, 0.1


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, wherever it does; but not for type checkers only."""
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


def read_rooms() -> tuple[dict[str, dict[str, int]], set[tuple[str, str]]]:
    """Lines of code of each room's sub-rooms ("" for the room itself), and who imports whom."""
    lines: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    arrows = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        room, *inner = path.relative_to(PACKAGE).parts
        if inner:
            lines[room][inner[0] if len(inner) > 1 else ""] += len(
                path.read_text(encoding="utf-8").splitlines()
            )
            arrows |= {(room, other) for other in imported_rooms(path) if other != room}
    known = {room for row in ROWS for room in row} & lines.keys()
    return lines, {(a, b) for a, b in arrows if a in known and b in known}


def without_implied(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no path of others gives."""

    def reaches(start: str, end: str) -> bool:
        return any(a == start and (b == end or reaches(b, end)) for a, b in arrows)

    return {(a, b) for a, b in arrows if not any(reaches(c, b) for d, c in arrows if d == a)}


def draw(lines: dict[str, dict[str, int]], arrows: set[tuple[str, str]]) -> Figure:
    figure = Figure(figsize=(10, 13), layout="constrained")
    axis = figure.subplots()
    rows = [[room for room in row if room in lines] for row in ROWS]
    places = {
        room: ((i - (len(row) - 1) / 2) * 4, level * 2.3)
        for level, row in enumerate(row for row in rows if row)
        for i, room in enumerate(row)
    }
    for room, other in sorted(without_implied(arrows)):
        (x, y), (to_x, to_y) = places[room], places[other]
        start = x + (to_x - x) * 0.15, y - HEIGHT / 2 - PAD
        end = to_x - (to_x - x) * 0.15, to_y + HEIGHT / 2 + PAD
        axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#444444"})
    for room, (x, y) in places.items():
        corner, form = (x - WIDTH / 2, y - HEIGHT / 2), f"round,pad={PAD}"
        colour = {"fc": COLOURS.get(room, "#dcebf7"), "ec": "#555555"}
        axis.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, form, **colour))
        inner = "\n".join(f"{name}: {count}" for name, count in lines[room].items() if name)
        text = f"{sum(lines[room].values())} lines\n{inner}"
        axis.text(x, y + 0.45, f"cdl_d2.{room}", ha="center", va="center", weight="bold")
        axis.text(x, y + 0.28, text, ha="center", va="top", fontsize=8)
    axis.set(xlim=(-5.8, 5.8), ylim=(-0.9, max(y for _, y in places.values()) + 0.9))
    axis.axis("off")
    return figure


if __name__ == "__main__":
    draw(*read_rooms()).savefig(Path(__file__).parent / "architecture.png", dpi=80)
