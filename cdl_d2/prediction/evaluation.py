"""How good an archive's predictions are, beside the rate, where the truth is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from cdl_d2.codec.image_files import reading_image
from cdl_d2.data.datasets.class_folders import find_classes, find_labelled_images
from cdl_d2.data.datasets.coco import class_names, read_coco
from cdl_d2.data.datasets.coco_precision import average_precision, index_coco
from cdl_d2.data.datasets.sources import stem_of
from cdl_d2.errors import CdlError

IGNORED = 255  # of a label map
Results = dict[str, dict[str, float]]


class CocoTruth:
    """COCO-format annotations of a detector's sources, which are found by name without suffix.

    Args:
        path: JSON.
        names: of the classes that the detector knows.

    Raises:
        CdlError, FileNotFoundError: as read_coco; if the file has other classes.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self._content, self._path = read_coco(path), path
        ids = {each["name"]: each["id"] for each in self._content["categories"]}
        self.category_ids = [
            ids[name] for name in _ordered(class_names(self._content), names, path)
        ]
        self._ids: dict[str, int] = {}
        for image in self._content["images"]:
            stem = stem_of(image["file_name"])
            if stem in self._ids:
                raise CdlError(f"{path} has two images of the name {stem}: rename one")
            self._ids[stem] = image["id"]
        self._short_ids = _unambiguous((PurePosixPath(k).name, v) for k, v in self._ids.items())

    def image_id(self, name: str) -> int | None:
        """The number of a source's image; file names may be in folders that the source is not."""
        stem = stem_of(name)
        return self._ids.get(stem, self._short_ids.get(PurePosixPath(stem).name))

    def check_some(self, names: Sequence[str]) -> None:
        """Raise CdlError if none of the sources is annotated."""
        if all(self.image_id(name) is None for name in names):
            raise CdlError(f"{self._path} annotates none of the predicted images")

    def results(
        self, found: list[dict[str, Any]], entries: Sequence[dict[str, Any]], names: Sequence[str]
    ) -> Results:
        """`bbox` and, of a detector with masks, `segm`, on the sources that are annotated; what was
        seen at another size, as bitstreams of resized images are, is resized.

        Args:
            found: entries of a COCO results file.
            entries: of the predictions, with `file_name`, `height` and `width`.
            names: of all sources; one without a prediction counts as one without objects.

        Raises:
            CdlError: if none is annotated, or one in another shape than it was seen in.
        """
        self.check_some(names)
        ids = {self.image_id(name) for name in names} - {None}
        annotated = {i["id"]: (i["height"], i["width"]) for i in self._content["images"]}
        seen = {self.image_id(e["file_name"]): (e["height"], e["width"]) for e in entries}
        for image_id in ids & seen.keys():
            _check_shape(image_id, seen[image_id], annotated[image_id])
        found = [
            _resized(each, seen[each["image_id"]], annotated[each["image_id"]])
            for each in found
            if each["image_id"] in ids
        ]
        masks = all(each.get("segmentation") for each in self._content["annotations"])
        masks &= any("segmentation" in each for each in found)
        tasks = ["bbox", "segm"] if masks else ["bbox"]
        coco = index_coco(self._content)
        return {task: average_precision(coco, found, task, ids) for task in tasks}


def _ordered(theirs: Sequence[str], names: Sequence[str], path: Path) -> list[str]:
    """The classes of annotations in the order of a model's, which has numbers where nobody named
    them: then as they are.

    Raises:
        CdlError: if they are others.
    """
    numbered = list(names) == [str(i) for i in range(len(names))]
    if len(theirs) != len(names) or not (numbered or set(theirs) == set(names)):
        raise CdlError(
            f"{path} has the classes {', '.join(theirs)}; the model knows {', '.join(names)}"
        )
    return list(theirs if numbered else names)


def _unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """What only one pair says."""
    found: dict[str, list[int]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: values[0] for key, values in found.items() if len(values) == 1}


def _check_shape(image_id: int, seen: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise CdlError unless an image of (H, W) pixels can have been resized to what was seen."""
    if abs(seen[0] * size[1] - seen[1] * size[0]) > size[0] + size[1]:
        raise CdlError(
            f"image {image_id} was seen at {seen} pixels, (height, width), and is annotated at "
            f"{size}, which is of another shape: is it the same image, and upright?"
        )


def _resized(entry: dict[str, Any], seen: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """An entry of a COCO results file for an image of another size, (H, W)."""
    if seen == size:
        return entry
    vertical, horizontal = (new / old for new, old in zip(size, seen, strict=True))
    left, top, width, height = entry["bbox"]
    box = [left * horizontal, top * vertical, width * horizontal, height * vertical]
    entry = entry | {"bbox": box}
    if "segmentation" in entry:
        mask = Image.fromarray(coco_mask.decode(entry["segmentation"]))
        resized = np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
        entry["segmentation"] = coco_mask.encode(np.asfortranarray(resized))
    return entry


def segmentation_results(
    labels: Path, entries: Sequence[dict[str, Any]], folder: Path, names: Sequence[str]
) -> Results:
    """The mean IoU in percent, over all pixels, of the classes that occur.

    Args:
        labels: folder of label maps, NAME.png, 8 bit; 255 is ignored.
        entries: of the predictions, each with its `label_map` in `folder`.

    Raises:
        CdlError: if there is no label map of any of them, or one is of another size.
    """
    count = len(names)
    confusion = np.zeros((count, count), dtype=np.int64)
    for entry in entries:
        path = labels / f"{stem_of(entry['file_name'])}.png"
        if not path.is_file():
            continue
        truth, found = _label_map(path), _label_map(folder / entry["label_map"])
        if truth.shape != found.shape:
            raise CdlError(f"{path} has {truth.shape} pixels, and the image {found.shape}")
        known = truth != IGNORED
        if (truth[known] >= count).any():
            raise CdlError(
                f"{path} has label {truth[known].max()}; the model knows {count} classes, and "
                f"{IGNORED} is ignored"
            )
        pairs = count * truth[known].astype(np.int64) + found[known]
        confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)
    if not confusion.any():
        raise CdlError(f"{labels} has no label map NAME.png of any predicted image")
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    present = confusion.sum(1) > 0
    return {"sem_seg": {"mIoU": float(100 * np.mean(right[present] / union[present]))}}


def classification_results(
    folder: Path, entries: Sequence[dict[str, Any]], names: Sequence[str]
) -> Results:
    """`top1` in percent.

    Args:
        folder: has a folder of images for each class; a source is found by its name.
        entries: of the predictions, each with `probabilities`.

    Raises:
        CdlError, FileNotFoundError: for other classes; if no source is found.
    """
    truth = class_truth(folder, names)
    stems = {i: stem_of(entry["file_name"]) for i, entry in enumerate(entries)}
    known = [i for i, stem in stems.items() if stem in truth]
    if not known:
        raise CdlError(f"{folder} has none of the predicted images")
    right = [np.argmax(entries[i]["probabilities"]) == truth[stems[i]] for i in known]
    return {"classification": {"top1": float(100 * np.mean(right))}}


def class_truth(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """The class of each image under a folder of classes, as a place in `names`, by its path without
    suffix and, if no other has it, by its name.

    Raises:
        CdlError, FileNotFoundError: see find_labelled_images; for other classes.
    """
    classes = find_classes(folder)
    ordered = _ordered(classes, names, folder)
    found = find_labelled_images(folder)
    labelled = [(path, ordered.index(classes[label])) for path, label in found]
    truth = _unambiguous((path.stem, label) for path, label in labelled)
    return truth | {stem_of(p.relative_to(folder).as_posix()): label for p, label in labelled}


def _label_map(path: Path) -> np.ndarray:
    with reading_image(path), Image.open(path) as file:
        return np.asarray(file)
