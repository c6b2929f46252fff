"""Conversion of CelebAMask-HQ to data sets of images, label maps and attributes.

Lee et al., MaskGAN: Towards Diverse and Interactive Facial Image Manipulation, CVPR 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cdl_d2.codec.io.image_files import find_images, open_image, read_image, write_png
from cdl_d2.data.datasets.attributes import read_attributes, write_attributes
from cdl_d2.errors import CdlError
from cdl_d2.files import write_text

PARTS = (  # labels from 1 in the order of the authors; later masks cover earlier ones
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
IMAGES_PER_FOLDER = 2000  # of masks
LAST_IMAGE = {"train": 162770, "val": 182637, "test": 202599}  # number in CelebA, per split


class CelebAMask:
    """Converter of the distributed folder to one data set per split of CelebA.

    A data set has `images/N.png`, `labels/N.png`, `attributes.csv` and `classes.txt`. Images are
    reduced to the size of the masks, half of theirs.

    Args:
        folder: folder with `CelebA-HQ-img/N.jpg`, `CelebAMask-HQ-attribute-anno.txt`,
            `CelebAMask-HQ-mask-anno/<N // 2000>/<N>_<part>.png` and
            `CelebA-HQ-to-CelebA-mapping.txt`.
        output: folder of the data sets; existing images are kept.

    Attributes:
        images: paths of all images, sorted.

    Raises:
        FileNotFoundError, NotADirectoryError: if one of these is missing.
        CdlError: if there is no image, or a table is invalid.
    """

    def __init__(self, folder: Path, output: Path):
        self.images = find_images(folder / "CelebA-HQ-img")
        self._masks, self._output = folder / "CelebAMask-HQ-mask-anno", output
        self._table = read_attributes(folder / "CelebAMask-HQ-attribute-anno.txt")
        self._splits = _read_splits(folder / "CelebA-HQ-to-CelebA-mapping.txt")

    def write(self, image: Path) -> None:
        """Write an image and its label map unless they exist.

        Raises:
            CdlError, OSError: if the image, a mask or a row of a table is missing or invalid.
        """
        if image.stem not in self._splits or image.stem not in self._table.rows:
            raise CdlError(f"image {image} is not in the mapping to CelebA, or has no attributes")
        picture, label = self._target(image, "images"), self._target(image, "labels")
        if picture.exists() and label.exists():
            return
        labels = self._read_labels(int(image.stem))
        height, width = labels.shape
        photo = Image.fromarray(read_image(image).permute(1, 2, 0).numpy())
        if photo.width * height != photo.height * width:
            raise CdlError(
                f"image {image} has {photo.width} x {photo.height} pixels, its masks have "
                f"{width} x {height}: expected the same aspect ratio"
            )
        pixels = photo.resize((width, height), Image.Resampling.LANCZOS)
        write_png(label, labels)
        write_png(picture, np.asarray(pixels))

    def write_tables(self) -> dict[str, int]:
        """Write attributes and class names of the images that were written.

        Returns:
            number of images per split.
        """
        counts = {}
        for split in LAST_IMAGE:
            rows = [
                (f"{image.stem}.png", self._table.rows[image.stem])
                for image in self.images
                if self._splits.get(image.stem) == split and self._target(image, "images").exists()
            ]
            if rows:
                counts[split] = len(rows)
                write_attributes(self._output / split / "attributes.csv", self._table.names, rows)
                names = "\n".join(("background", *PARTS)) + "\n"
                write_text(self._output / split / "classes.txt", names)
        return counts

    def _target(self, image: Path, kind: str) -> Path:
        return self._output / self._splits[image.stem] / kind / f"{image.stem}.png"

    def _read_labels(self, number: int) -> np.ndarray:
        folder, labels = self._masks / str(number // IMAGES_PER_FOLDER), None
        for label, part in enumerate(PARTS, start=1):
            path = folder / f"{number:05d}_{part}.png"
            if not path.exists():
                continue  # not visible in this image
            with open_image(path) as file:
                mask = np.asarray(file.convert("L")) > 0
            if labels is None:
                labels = np.zeros(mask.shape, dtype=np.uint8)
            if mask.shape != labels.shape:
                raise CdlError(f"mask {path} has another size than the image's other masks")
            labels[mask] = label
        if labels is None:
            raise CdlError(f"image {number} has no mask {folder / f'{number:05d}_*.png'}")
        return labels


def _read_splits(path: Path) -> dict[str, str]:
    """Return the split of CelebA that each image, by its number, comes from."""
    splits = {}
    for line in path.read_text(errors="replace", encoding="utf-8").splitlines()[1:]:
        try:
            number, _, original = line.split()
            index = int(Path(original).stem)
            splits[str(int(number))] = next(s for s, last in LAST_IMAGE.items() if index <= last)
        except (StopIteration, ValueError) as error:
            raise CdlError(
                f"{path}: {line!r} is invalid: expected two numbers and a file of CelebA, "
                f"000001.jpg to {LAST_IMAGE['test']}.jpg"
            ) from error
    return splits
