"""Folders in the layout of PASCAL VOC."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# fmt: off
TWENTY = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>
<difficult>0</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>
<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"""


def write_voc(folder: Path, images: Sequence[Sequence[str]]) -> None:
    """Images of 64 x 96 pixels, for each the classes of its objects, rectangles on noise; all are
    the splits `train` and `val`."""
    generator = np.random.default_rng(0)
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index, names in enumerate(images):
        picture = generator.integers(0, 60, (64, 96, 3), dtype=np.uint8)
        objects = []
        for place, name in enumerate(names):
            left, top, shade = 5 + 30 * place, 5 + 10 * place, 100 + 20 * TWENTY.index(name) % 150
            picture[top - 1 : top + 27, left - 1 : left + 23] = shade
            corners = {"left": left, "top": top, "right": left + 23, "bottom": top + 27}
            objects.append(OBJECT.format(name=name, **corners))
        size = "<size><width>96</width><height>64</height><depth>3</depth></size>"
        text = f"<annotation>{size}{''.join(objects)}</annotation>"
        (folder / "Annotations" / f"{index:06d}.xml").write_text(text, encoding="utf-8")
        Image.fromarray(picture).save(folder / "JPEGImages" / f"{index:06d}.jpg", quality=95)
    lines = "".join(f"{index:06d}\n" for index in range(len(images)))
    for split in ("train", "val"):
        (folder / "ImageSets/Main" / f"{split}.txt").write_text(lines, encoding="utf-8")
