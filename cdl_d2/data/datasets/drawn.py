"""Sample data that is drawn, not downloaded: textured shapes on textured backgrounds.

A class is a shape. Colours and textures are drawn independently of it, so that only the outline
tells classes apart. Later shapes hide parts of earlier ones; masks are what remains visible.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cdl_d2.codec.io.image_files import write_png
from cdl_d2.data.datasets.attributes import write_attributes
from cdl_d2.errors import CdlError
from cdl_d2.files import write_text

SHAPES = ("disc", "square", "triangle", "star", "cross")
SMALLEST_SIDE = 32
SMALLEST_VISIBLE = 0.6  # of a shape; one that would hide more of another is placed elsewhere
ATTEMPTS = 20


@dataclass(frozen=True)
class Scene:
    """A drawn image and what is on it.

    Attributes:
        image: H x W x 3, uint8, RGB.
        classes: index into SHAPES of each object.
        masks: one H x W boolean array an object, its visible part; they do not overlap.
    """

    image: np.ndarray
    classes: tuple[int, ...]
    masks: tuple[np.ndarray, ...]


def draw_scene(
    rng: np.random.Generator, height: int, width: int, objects: tuple[int, int] = (2, 5)
) -> Scene:
    """A scene with a random number of shapes, their sides 1/5 to 1/2 of the image's shorter side.

    Args:
        objects: the smallest and the largest number; fewer if there is no place for them.

    Raises:
        CdlError: if a side is below 32 pixels.
    """
    if min(height, width) < SMALLEST_SIDE:
        raise CdlError(
            f"an image of height {height} and width {width}: sides need {SMALLEST_SIDE} pixels"
        )
    image = _texture(rng, height, width, contrast=0.35)
    classes: list[int] = []
    outlines: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for _ in range(rng.integers(objects[0], objects[1] + 1)):
        kind = int(rng.integers(len(SHAPES)))
        side = min(height, width) * rng.uniform(0.2, 0.5)
        outline = _place(rng, SHAPES[kind], side, outlines, masks, (height, width))
        if outline is None:
            continue
        masks = [mask & ~outline for mask in masks]
        image = np.where(outline[..., None], _texture(rng, height, width, contrast=0.9), image)
        classes.append(kind)
        outlines.append(outline)
        masks.append(outline)
    noisy = image + rng.normal(0, 4, image.shape)
    return Scene(noisy.clip(0, 255).astype(np.uint8), tuple(classes), tuple(masks))


def draw_portrait(rng: np.random.Generator, height: int, width: int, shape: str) -> np.ndarray:
    """An image, H x W x 3 uint8, of one shape that fills about half of it."""
    side = min(height, width) * rng.uniform(0.5, 0.8)
    outline = _place(rng, shape, side, [], [], (height, width))
    background = _texture(rng, height, width, contrast=0.35)
    image = np.where(outline[..., None], _texture(rng, height, width, contrast=0.9), background)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def write_detection(
    folder: str | Path, count: int, size: tuple[int, int] = (192, 192), seed: int = 0
) -> Iterator[Path]:
    """Write a COCO-format data set: `annotations.json` and `images/`, masks as RLE.

    Args:
        size: (H, W) in pixels.

    Yields:
        each image file; the annotations, last, when all are there.

    Raises:
        CdlError: if there would be no image, or images are too small.
    """
    from pycocotools import mask as coco_mask

    folder = Path(folder)
    images, annotations = [], []
    for number, rng in _generators(count, seed):
        scene = draw_scene(rng, *size)
        name = f"{number:05d}.png"
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for kind, mask in zip(scene.classes, scene.masks, strict=True):
            rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind + 1,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": float(coco_mask.area(rle)),
                    "iscrowd": 0,
                    "segmentation": rle | {"counts": rle["counts"].decode()},
                }
            )
        yield _save(scene.image, folder / "images" / name)
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(SHAPES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(folder / "annotations.json", json.dumps(content))
    yield folder / "annotations.json"


def write_segmentation(
    folder: str | Path, count: int, size: tuple[int, int] = (192, 192), seed: int = 0
) -> Iterator[Path]:
    """Write `images/NAME.png`, `labels/NAME.png`, 8 bit, 1 + index into SHAPES, and `classes.txt`.

    The background is 0.

    Arguments, what is yielded and raised: as write_detection.
    """
    folder = Path(folder)
    for number, rng in _generators(count, seed):
        scene = draw_scene(rng, *size)
        labels = np.zeros(size, dtype=np.uint8)
        for kind, mask in zip(scene.classes, scene.masks, strict=True):
            labels[mask] = kind + 1
        _save(labels, folder / "labels" / f"{number:05d}.png")
        yield _save(scene.image, folder / "images" / f"{number:05d}.png")
    write_text(folder / "classes.txt", "\n".join(("background", *SHAPES)) + "\n")
    yield folder / "classes.txt"


def write_multitask(
    folder: str | Path, count: int, size: tuple[int, int] = (192, 192), seed: int = 0
) -> Iterator[Path]:
    """Write the files of write_segmentation, and `attributes.csv`: which shapes an image shows.

    Arguments, what is yielded and raised: as write_detection.
    """
    rows = []
    for path in write_segmentation(folder, count, size, seed):
        if path.suffix == ".png":
            labels = np.asarray(Image.open(Path(folder) / "labels" / path.name))
            shown = [int((labels == kind + 1).any()) for kind in range(len(SHAPES))]
            rows.append((path.name, shown))
        yield path
    write_attributes(Path(folder) / "attributes.csv", SHAPES, rows)


def write_classification(
    folder: str | Path, count: int, size: tuple[int, int] = (192, 192), seed: int = 0
) -> Iterator[Path]:
    """Write a folder of images for each class, as equally many as can be.

    Arguments, what is yielded and raised: as write_detection.
    """
    for number, rng in _generators(count, seed):
        shape = SHAPES[number % len(SHAPES)]
        image = draw_portrait(rng, *size, shape)
        yield _save(image, Path(folder) / shape / f"{number:05d}.png")


WRITERS: dict[str, Callable[..., Iterator[Path]]] = {
    "detection": write_detection,
    "segmentation": write_segmentation,
    "multitask": write_multitask,
    "classification": write_classification,
}


def _generators(count: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    """A generator an image, so that an image depends on the seed and its number only."""
    if count < 1 or seed < 0:
        raise CdlError(f"{count} images of seed {seed}: at least 1 and 0 are needed")
    for number in range(count):
        yield number, np.random.default_rng([seed, number])


def _save(image: np.ndarray, path: Path) -> Path:
    write_png(path, image)
    return path


def _place(
    rng: np.random.Generator,
    shape: str,
    side: float,
    outlines: list[np.ndarray],
    masks: list[np.ndarray],
    size: tuple[int, int],
) -> np.ndarray | None:
    """The H x W outline of a shape at a place where it leaves enough of the others visible."""
    height, width = size
    half = 0.55 * side
    for _ in range(ATTEMPTS):
        centre = rng.uniform(half, width - half), rng.uniform(half, height - half)
        picture = Image.new("1", (width, height))
        corners = _corners(shape, side, rng.uniform(0, 2 * np.pi)) + centre
        ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=1)
        outline = np.array(picture)
        visible = [(mask & ~outline).sum() for mask in masks]
        if all(
            left >= SMALLEST_VISIBLE * whole.sum()
            for left, whole in zip(visible, outlines, strict=True)
        ):
            return outline
    return None


def _corners(shape: str, side: float, angle: float) -> np.ndarray:
    """Corners of a polygon around (0, 0), about `side` pixels wide, turned by `angle`."""
    if shape == "disc":
        corners = _on_circle(np.full(48, 0.5))
    elif shape == "square":
        corners = _on_circle(np.full(4, 0.55))
    elif shape == "triangle":
        corners = _on_circle(np.full(3, 0.55))
    elif shape == "star":
        corners = _on_circle(np.tile([0.55, 0.22], 5))
    else:
        arm, reach = 0.15, 0.5
        quarter = np.array([[arm, -reach], [arm, -arm], [reach, -arm]])
        turn = np.array([[0, 1], [-1, 0]])
        corners = np.concatenate([quarter @ np.linalg.matrix_power(turn, i) for i in range(4)])
    cos, sin = np.cos(angle), np.sin(angle)
    return side * corners @ np.array([[cos, sin], [-sin, cos]])


def _on_circle(radii: np.ndarray) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _texture(rng: np.random.Generator, height: int, width: int, contrast: float) -> np.ndarray:
    """Two random colours mixed by stripes, checks, dots or smooth noise, H x W x 3 in 0..255."""
    rows, columns = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 24)
    along = (columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / period
    across = (rows * np.cos(angle) - columns * np.sin(angle)) * 2 * np.pi / period
    kind = rng.integers(4)
    if kind == 0:
        mix = np.sin(along) > 0
    elif kind == 1:
        mix = (np.sin(along) > 0) ^ (np.sin(across) > 0)
    elif kind == 2:
        mix = np.sin(along) + np.sin(across) > 0.9
    else:
        coarse = rng.uniform(0, 255, (max(height // 16, 2), max(width // 16, 2)))
        smooth = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.BICUBIC)
        mix = np.asarray(smooth) / 255
    first = rng.uniform(0, 255, 3)
    second = first + contrast * (rng.uniform(0, 255, 3) - first)
    return first + np.asarray(mix, dtype=float)[..., None] * (second - first)
