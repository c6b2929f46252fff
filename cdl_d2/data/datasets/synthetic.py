"""Synthetic data sets: textured shapes on textured backgrounds, generated from a seed.

The class of an object is its shape. Colors and textures are independent of it, so that only the
outline distinguishes classes. Later shapes occlude earlier ones; masks cover the visible parts.
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
MIN_SIDE = 32  # pixels
MIN_VISIBLE_SHARE = 0.6  # of a shape's area that later shapes leave visible
PLACEMENT_ATTEMPTS = 20


@dataclass(frozen=True)
class Scene:
    """A synthetic image and its objects.

    Attributes:
        image: H x W x 3, uint8, RGB.
        classes: index into SHAPES per object.
        masks: visible part of each object, H x W, boolean; masks do not overlap.
    """

    image: np.ndarray
    classes: tuple[int, ...]
    masks: tuple[np.ndarray, ...]


def render_scene(
    rng: np.random.Generator, height: int, width: int, objects: tuple[int, int] = (2, 5)
) -> Scene:
    """Return a scene of random shapes, 1/5 to 1/2 as wide as the image's shorter side.

    `objects` are the smallest and largest number of shapes; there are fewer if they do not fit.

    Raises:
        CdlError: if height or width is below 32 pixels.
    """
    if min(height, width) < MIN_SIDE:
        raise CdlError(
            f"height {height} and width {width} are too small: expected at least {MIN_SIDE} pixels"
        )
    image = _texture(rng, height, width, contrast=0.35)
    classes: list[int] = []
    outlines: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for _ in range(rng.integers(objects[0], objects[1] + 1)):
        kind = int(rng.integers(len(SHAPES)))
        side = min(height, width) * rng.uniform(0.2, 0.5)
        outline = _place_shape(rng, SHAPES[kind], side, outlines, masks, (height, width))
        if outline is None:
            continue
        masks = [mask & ~outline for mask in masks]
        image = np.where(outline[..., None], _texture(rng, height, width, contrast=0.9), image)
        classes.append(kind)
        outlines.append(outline)
        masks.append(outline)
    noisy = image + rng.normal(0, 4, image.shape)
    return Scene(noisy.clip(0, 255).astype(np.uint8), tuple(classes), tuple(masks))


def render_portrait(rng: np.random.Generator, height: int, width: int, shape: str) -> np.ndarray:
    """Return an image, H x W x 3, uint8, of one shape that fills about half of it."""
    side = min(height, width) * rng.uniform(0.5, 0.8)
    outline = _place_shape(rng, shape, side, [], [], (height, width))
    background = _texture(rng, height, width, contrast=0.35)
    image = np.where(outline[..., None], _texture(rng, height, width, contrast=0.9), background)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def write_detection(
    folder: str | Path, count: int, size: tuple[int, int] = (192, 192), seed: int = 0
) -> Iterator[Path]:
    """Write a COCO-format data set of images of `size` (height, width), with masks as RLE.

    Yields:
        path of each file that was written.

    Raises:
        CdlError: if `count` is below 1, `seed` below 0 or a side below 32 pixels.
    """
    from pycocotools import mask as coco_mask

    folder = Path(folder)
    images, annotations = [], []
    for number, rng in _generators(count, seed):
        scene = render_scene(rng, *size)
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
    """Write images, label maps and class names; arguments and errors as in write_detection.

    Files are `images/NAME.png`, `labels/NAME.png` (8 bit; 0 is the background, others are
    1 + index into SHAPES) and `classes.txt`.
    """
    folder = Path(folder)
    for number, rng in _generators(count, seed):
        scene = render_scene(rng, *size)
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
    """Write the files of write_segmentation, and the shapes in each image as `attributes.csv`."""
    rows = []
    for path in write_segmentation(folder, count, size, seed):
        if path.suffix == ".png":
            labels = np.asarray(Image.open(Path(folder) / "labels" / path.name))
            rows.append((path.name, [int((labels == 1 + i).any()) for i in range(len(SHAPES))]))
        yield path
    write_attributes(Path(folder) / "attributes.csv", SHAPES, rows)


def write_classification(
    folder: str | Path, count: int, size: tuple[int, int] = (192, 192), seed: int = 0
) -> Iterator[Path]:
    """Write one folder of images per class; classes take turns.

    Arguments and errors as in write_detection.
    """
    for number, rng in _generators(count, seed):
        shape = SHAPES[number % len(SHAPES)]
        image = render_portrait(rng, *size, shape)
        yield _save(image, Path(folder) / shape / f"{number:05d}.png")


WRITERS: dict[str, Callable[..., Iterator[Path]]] = {
    "detection": write_detection,
    "segmentation": write_segmentation,
    "multitask": write_multitask,
    "classification": write_classification,
}


def _generators(count: int, seed: int) -> Iterator[tuple[int, np.random.Generator]]:
    """Yield a generator per image, so that an image depends on the seed and its number only."""
    if count < 1 or seed < 0:
        raise CdlError(f"count {count}, seed {seed}: expected at least 1 and 0")
    for number in range(count):
        yield number, np.random.default_rng([seed, number])


def _save(image: np.ndarray, path: Path) -> Path:
    write_png(path, image)
    return path


def _place_shape(
    rng: np.random.Generator,
    shape: str,
    side: float,
    outlines: list[np.ndarray],
    masks: list[np.ndarray],
    size: tuple[int, int],
) -> np.ndarray | None:
    """Return a shape's outline, H x W, at a random position that leaves other shapes visible."""
    height, width = size
    half = 0.55 * side
    for _ in range(PLACEMENT_ATTEMPTS):
        centre = rng.uniform(half, width - half), rng.uniform(half, height - half)
        picture = Image.new("1", (width, height))
        corners = _corners(shape, side, rng.uniform(0, 2 * np.pi)) + centre
        ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=1)
        outline = np.array(picture)
        visible = [(mask & ~outline).sum() for mask in masks]
        if all(
            area >= MIN_VISIBLE_SHARE * whole.sum()
            for area, whole in zip(visible, outlines, strict=True)
        ):
            return outline
    return None


RADII = {  # of corners at equal angles, relative to the side of a shape
    "disc": np.full(48, 0.5),
    "square": np.full(4, 0.55),
    "triangle": np.full(3, 0.55),
    "star": np.tile([0.55, 0.22], 5),
}


def _corners(shape: str, side: float, angle: float) -> np.ndarray:
    """Return the corners, N x 2, of a shape about `side` pixels wide, rotated around (0, 0)."""
    if shape in RADII:
        corners = _polygon(RADII[shape])
    else:
        arm, reach = 0.15, 0.5
        quarter = np.array([[arm, -reach], [arm, -arm], [reach, -arm]])
        turn = np.array([[0, 1], [-1, 0]])
        corners = np.concatenate([quarter @ np.linalg.matrix_power(turn, i) for i in range(4)])
    cos, sin = np.cos(angle), np.sin(angle)
    return side * corners @ np.array([[cos, sin], [-sin, cos]])


def _polygon(radii: np.ndarray) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _texture(rng: np.random.Generator, height: int, width: int, contrast: float) -> np.ndarray:
    """Return two random colors mixed by stripes, checks, dots or noise, H x W x 3 in [0, 255]."""
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
