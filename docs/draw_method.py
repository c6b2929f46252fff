# ruff: noqa: RUF001  # the multiplication sign
"""Draw the figures of the method, docs/figures/*.svg, without any package.

python docs/draw_method.py
"""

from html import escape
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).parent / "figures"
CODEC, STUDENT, TEACHER, DATA = "#dcebf7", "#e2f0d9", "#fbe3d2", "#f2f2f2"
HEIGHT = 46  # of a box, in pixels


class Drawing:
    """Boxes and arrows on white.

    Args:
        width, height: size in pixels.
    """

    def __init__(self, width, height):
        self.size, self.parts = (width, height), []

    def text(self, x, y, text, size=13, anchor="middle"):
        """Write lines of text, which are centered at y."""
        lines = text.split("\n")
        for number, line in enumerate(lines):
            top = y + (number - (len(lines) - 1) / 2) * (size + 3) + size * 0.35
            self.parts.append(
                f'<text x="{x:g}" y="{top:g}" font-size="{size}" text-anchor="{anchor}">'
                f"{escape(line)}</text>"
            )

    def box(self, x, y, width, text, color, height=HEIGHT):
        """Draw a box around a text; x and y are its left and its middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="6" '
            f'fill="{color}" stroke="#555"/>'
        )
        self.text(x + width / 2, y, text)

    def arrow(self, *points, dashed=False):
        """Draw an arrow along points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="#333" stroke-width="1.5"{dash} '
            'marker-end="url(#head)"/>'
        )

    def chain(self, x, y, boxes, gap=26):
        """Draw boxes (width, text, color) in a row with arrows between; return their spans."""
        spans = []
        for width, text, color in boxes:
            if spans:
                self.arrow((spans[-1][1], y), (x, y))
            self.box(x, y, width, text, color)
            spans.append((x, x + width))
            x += width + gap
        return spans

    def save(self, name):
        """Write docs/figures/NAME.svg."""
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.svg").write_text(self.svg(), encoding="utf-8")

    def svg(self):
        """Return the drawing as text."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif">\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#333"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def draw_overview():
    """Draw codec, bitstream, student, and the teacher that only training needs."""
    d = Drawing(1060, 315)
    codec = [(90, "image\nH × W × 3", DATA), (110, "encoder g_a\n(frozen)", CODEC)]
    codec += [(90, "quantize", CODEC), (150, "latent ŷ\nH/16 × W/16 × M", DATA)]
    codec += [(120, "entropy coder", CODEC), (110, "bitstream\nfile", DATA)]
    spans = d.chain(20, 45, codec)
    latent = sum(spans[3]) / 2
    d.text(765, 98, "reading a file gives ŷ;\nno image is reconstructed", 12)
    student = [(150, "input adapter\n(bridge), or stem", STUDENT)]
    student += [(150, "backbone stages,\nfeature pyramid", STUDENT), (120, "heads", STUDENT)]
    student += [(150, "boxes, masks,\nlabels, classes", DATA)]
    bodies = d.chain(latent - 75, 165, student)
    d.arrow((latent, 68), (latent, 142))
    d.text(latent - 90, 165, "student", 14, "end")
    d.box(latent - 75, 280, 350, "frozen RGB model on the original image (teacher)", TEACHER)
    d.arrow((65, 68), (65, 280), (latent - 75, 280), dashed=True)
    d.text(75, 262, "training only", 12, "start")
    for (left, right), label in zip(bodies[1:3], ("features", "outputs"), strict=True):
        x = (left + right) / 2
        if label == "outputs":
            d.arrow((latent + 275, 280), (x, 280), (x, 188), dashed=True)
        else:
            d.arrow((x, 257), (x, 188), dashed=True)
        d.text(x + 8, 222, f"{label} are\ndistilled", 12, "start")
    d.text(latent - 83, 222, "initial weights", 12, "end")
    d.arrow((latent, 257), (latent, 188), dashed=True)
    return d


def draw_latent_resnet():
    """Draw the latent ResNet-50 and its pyramid, figure 2 of the first paper."""
    d = Drawing(920, 395)
    trunk = [(110, "latent ŷ\nM × h × w", DATA), (130, "stem: 3 basic\nblocks, M ch.", STUDENT)]
    trunk += [(120, "conv4-1: 3\nbottlenecks", STUDENT), (120, "conv4-2: 4\nbottlenecks", STUDENT)]
    trunk += [
        (120, "conv4-3: 6\nbottlenecks", STUDENT),
        (140, "conv5: 3 bottle-\nnecks, stride 2", STUDENT),
    ]
    spans = d.chain(20, 45, trunk)
    middles = [(left + right) / 2 for left, right in spans[2:]]
    names = ("C4-1: 1024", "C4-2: 1024", "C4: 1024", "C5: 2048")
    ways = ("1×1 conv, 2048\npixel shuffle ×4", "1×1 conv, 2048\npixel shuffle ×2", "", "")
    outputs = ("res2: 128\nstride 4", "res3: 512\nstride 8", "res4: 1024\nstride 16")
    outputs += ("res5: 2048\nstride 32",)
    for x, name, way, output, level in zip(
        middles, names, ways, outputs, ("P2", "P3", "P4", "P5"), strict=True
    ):
        d.text(x + 8, 82, name, 12, "start")
        if way:
            d.arrow((x, 68), (x, 112))
            d.box(x - 62, 135, 124, way, STUDENT)
            d.arrow((x, 158), (x, 197))
        else:
            d.arrow((x, 68), (x, 197))
        d.box(x - 55, 220, 110, output, DATA)
        d.arrow((x, 243), (x, 292))
        d.box(x - 40, 310, 80, level, CODEC, 34)
    for left, right in pairwise(middles):
        d.arrow((right - 40, 310), (left + 40, 310))
    d.text(
        middles[0] - 80,
        310,
        "feature pyramid\n(1×1, 3×3, upsample\nand add), 256 channels",
        12,
        "end",
    )
    d.text(
        (middles[0] + middles[-1]) / 2,
        370,
        "P6: max pooling of P5. RPN and RoI heads are those of the RGB model.",
        12,
    )
    d.text(20, 110, "h = H/16, w = W/16", 12, "start")
    return d


def draw_bridge():
    """Draw the linear bridge to the first convolution of an RGB model, and its fit."""
    d = Drawing(980, 250)
    chain = [
        (110, "latent ŷ\nM × H/16 × W/16", DATA),
        (150, "first layers of g_s\n(stride s)", CODEC),
    ]
    chain += [(110, "3×3 conv\nto rank r", STUDENT), (110, "1×1 conv\nto C·k²", STUDENT)]
    chain += [(100, "pixel\nshuffle ×k", STUDENT), (110, "feature\nC × H/t × W/t", DATA)]
    chain += [(110, "rest of the\nRGB model", TEACHER)]
    chain[0] = (130, *chain[0][1:])
    spans = d.chain(15, 45, chain, 20)
    left, right = spans[2][0], spans[3][1]
    d.text((left + right) / 2, 90, "linear map, fitted in closed form", 12)
    lower = [(110, "image\nH × W × 3", DATA), (140, "conv1 of the RGB\nmodel (stride t)", TEACHER)]
    lower += [(110, "target of the\nleast squares", DATA)]
    below = d.chain(15, 185, lower, 20)
    x = (left + right) / 2
    d.arrow((below[-1][1], 185), (x, 185), (x, 102), dashed=True)
    d.text(x + 10, 170, "at the fit only: some images, no labels", 12, "start")
    d.text(
        x + 10,
        200,
        "k = s/t; s = 4 (closer fit), 8, or 16 (no decoder layer)",
        12,
        "start",
    )
    return d


def draw_multitask():
    """Draw a codec for human viewing and several tasks, with its discriminator."""
    d = Drawing(800, 250)
    chain = [(80, "image x", DATA), (100, "encoder", CODEC), (130, "latent ŷ\n(bitstream)", DATA)]
    chain += [(110, "generator", CODEC), (150, "reconstruction x̂", DATA)]
    spans = d.chain(20, 45, chain)
    d.chain(spans[2][1] + 26, 115, [(110, "trunk", STUDENT), (100, "attributes", DATA)])
    x = spans[2][0] + 100
    d.arrow((x, 68), (x, 115), (spans[2][1] + 26, 115))
    d.box(spans[2][1] + 162, 170, 100, "parts", DATA)
    corner = spans[2][1] + 149
    d.arrow((corner, 115), (corner, 170), (corner + 13, 170))
    d.box(spans[2][0] - 30, 222, 130, "discriminator", TEACHER)
    y = spans[2][0] + 30
    d.arrow((60, 68), (60, 222), (spans[2][0] - 30, 222), dashed=True)
    d.arrow((y, 68), (y, 199), dashed=True)
    right = spans[4][1] - 20
    d.arrow((right, 68), (right, 222), (spans[2][0] + 100, 222), dashed=True)
    d.text(70, 205, "training only", 12, "start")
    return d


FIGURES = {
    "overview": draw_overview,
    "latent_resnet": draw_latent_resnet,
    "bridge": draw_bridge,
    "multitask": draw_multitask,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        draw().save(name)
