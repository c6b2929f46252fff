"""CelebAMask-HQ as it is distributed, made into data sets of images, label maps and attributes.

Lee et al., MaskGAN: Towards Diverse and Interactive Facial Image Manipulation, CVPR 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cdl_d2.codec.io.image_files import find_images, open_image, read_image, write_png
from cdl_d2.data.datasets.attributes import read_attributes, write_attributes
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

PARTS = (  # labels from 1, as the authors number them; where masks overlap, the later one is seen
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth"),
    *("u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
MASKS_A_FOLDER = 2000  # images whose masks are in one folder
LAST = {"train": 162770, "val": 182637, "test": 202599}  # image of CelebA in each of its parts


class CelebAMask:
    """The distributed folder, and the data sets made of it, one for each of CelebA's three parts.

    A part is a folder with `images/N.png`, `labels/N.png`, `attributes.csv` and `classes.txt`.
    Images are reduced to the size of the masks, half of theirs.

    Args:
        folder: with `CelebA-HQ-img/N.jpg`, `CelebAMask-HQ-mask-anno/<N // 2000>/<N>_<part>.png`,
            `CelebAMask-HQ-attribute-anno.txt` and `CelebA-HQ-to-CelebA-mapping.txt`.
        output: folder of the parts; what is there already is kept.

    Attributes:
        images: all images, sorted.

    Raises:
        FileNotFoundError, NotADirectoryError: if one of these is missing.
        CdlError: if there is no image; for a bad mapping; as read_attributes.
    """

    def __init__(self, folder: Path, output: Path):
        self.images = find_images(folder / "CelebA-HQ-img")
        self._masks, self._output = folder / "CelebAMask-HQ-mask-anno", output
        self._table = read_attributes(folder / "CelebAMask-HQ-attribute-anno.txt")
        self._split_of = _read_splits(folder / "CelebA-HQ-to-CelebA-mapping.txt")

    def write(self, image: Path) -> None:
        """Write an image and its label map, unless they are there.

        Raises:
            CdlError, OSError: if it, one of its masks or its row of a table is missing or bad.
        """
        if image.stem not in self._split_of or image.stem not in self._table.rows:
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
                f"{width} x {height}: expected the same form"
            )
        pixels = photo.resize((width, height), Image.Resampling.LANCZOS)
        write_png(label, labels)
        write_png(picture, np.asarray(pixels))

    def write_tables(self) -> dict[str, int]:
        """Write the attributes and the names of the classes beside the images that were written.

        Returns:
            the number of images in each part.
        """
        counts = {}
        for split in LAST:
            there = [
                image
                for image in self.images
                if self._split_of.get(image.stem) == split
                and self._target(image, "images").exists()
            ]
            if there:
                counts[split] = len(there)
                rows = [(f"{image.stem}.png", self._table.rows[image.stem]) for image in there]
                write_attributes(self._output / split / "attributes.csv", self._table.names, rows)
                with write_atomically(self._output / split / "classes.txt") as temporary:
                    temporary.write_text("\n".join(("background", *PARTS)) + "\n", encoding="utf-8")
        return counts

    def _target(self, image: Path, kind: str) -> Path:
        return self._output / self._split_of[image.stem] / kind / f"{image.stem}.png"

    def _read_labels(self, number: int) -> np.ndarray:
        folder, labels = self._masks / str(number // MASKS_A_FOLDER), None
        for label, part in enumerate(PARTS, start=1):
            path = folder / f"{number:05d}_{part}.png"
            if not path.exists():
                continue  # not seen in this image
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
    """The part of CelebA that each image, by its number, comes from."""
    splits = {}
    for line in path.read_text(errors="replace", encoding="utf-8").splitlines()[1:]:
        try:
            number, _, original = line.split()
            place = int(Path(original).stem)
            splits[str(int(number))] = next(split for split, last in LAST.items() if place <= last)
        except (StopIteration, ValueError) as error:
            raise CdlError(
                f"{path}: {line!r} is not a number, a number and a file of CelebA, 000001.jpg to "
                f"{LAST['test']}.jpg"
            ) from error
    return splits
