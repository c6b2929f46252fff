"""Unlabelled images of a conversion: those to keep aside, and random batches of the others."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from cdl_d2.codec.io.image_files import check_image_file, find_images, read_image
from cdl_d2.conversion.distillation import Distillation, DistillationOptions, Images
from cdl_d2.conversion.preprocessing import Preprocessing
from cdl_d2.conversion.proposal_labels import ProposalLabels
from cdl_d2.errors import CdlError

LEAST_IMAGES = 16  # below, neither a fit nor a validation says anything
KEPT_ASIDE = 0.1, 64  # share of the images for the report, and at most
VALIDATION = 0.05, 32  # the same of those whose loss selects the weights


def list_images(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return image files, of a folder with its subfolders or as they are listed.

    Raises:
        CdlError: for fewer than LEAST_IMAGES, or a file that is no image or corrupted.
        FileNotFoundError: if there is no such folder.
    """
    if isinstance(images, str | Path):
        folder = Path(images)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no folder of images {folder}")
        files, source = find_images(folder), f"in {folder}"
    else:
        files, source = [Path(path) for path in images], "given"
    if len(files) < LEAST_IMAGES:
        raise CdlError(
            f"{len(files)} images {source} are too few for a conversion: at least {LEAST_IMAGES}, "
            "better some hundreds like those that the model is for"
        )
    for file in tqdm(files, desc="check images", unit="image"):  # before minutes of training
        check_image_file(file)
    return files


def split_images(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files to keep aside for a report, and the others, in an order of names only."""
    files = sorted(files)
    random.Random(0).shuffle(files)
    return _take(files, *KEPT_ASIDE)


def _take(files: list[Path], share: float, most: int) -> tuple[list[Path], list[Path]]:
    count = max(4, min(most, round(share * len(files))))
    return files[:count], files[count:]


def draw_batches(
    files: Sequence[Path],
    augment: Callable[[torch.Tensor, random.Random], torch.Tensor],
    options: DistillationOptions,
    is_single: bool = False,
) -> Callable[[int], Images]:
    """Return the function from an iteration to its images: epochs in random order.

    Images of a batch are cropped to one size, which costs less than padding, and is as good.

    Args:
        files: image files.
        augment: changes an image, 3 x H x W, uint8, at random.
        options: with the batch size and the seed.
        is_single: batches of one image, for a network that takes no images of several sizes.
    """
    count = 1 if is_single else options.batch_size

    def draw(iteration: int) -> Images:
        batch = []
        for position in range(iteration * count, (iteration + 1) * count):
            epoch, index = divmod(position, len(files))
            order = list(files)
            random.Random(f"{options.seed} {epoch}").shuffle(order)
            generator = random.Random(f"{options.seed} {position}")
            batch.append(augment(read_image(order[index]), generator))
        return _crop_to_one_size(batch, random.Random(f"{options.seed} {iteration} crop"))

    return draw


def _crop_to_one_size(images: Images, generator: random.Random) -> list[torch.Tensor]:
    """Return random crops of images, 3 x H x W, of the smallest height and width among them."""
    height, width = (min(sides) for sides in zip(*(i.shape[1:] for i in images), strict=True))
    cropped = []
    for image in images:
        top = generator.randint(0, image.shape[1] - height)
        left = generator.randint(0, image.shape[2] - width)
        cropped.append(image[:, top : top + height, left : left + width])
    return cropped


def distil_on_images(
    student: nn.Module,
    teacher: nn.Module,
    preprocessing: Preprocessing,
    files: Sequence[Path],
    options: DistillationOptions,
    folder: Path | None = None,
    is_single: bool = False,
    labels: ProposalLabels | None = None,
) -> list[dict[str, float]]:
    """Train a student to reproduce its teacher, and return the validation losses.

    Args:
        student: on latents or reconstructions.
        teacher: the RGB network.
        preprocessing: of images.
        files: image files, some of which are for validation; not those of the report.
        options: options; no iterations and no minutes for no training.
        folder: where an interrupted training is kept and continued; None for nowhere.
        is_single: as in `draw_batches`.
        labels: as of a Distillation.
    """
    if not (options.iterations or options.minutes):
        return []
    validation, files = _take(list(files), *VALIDATION)
    batches = [[preprocessing.apply(read_image(file))] for file in validation]
    if preprocessing.crop:  # of one size
        single, size = [batch[0] for batch in batches], options.batch_size
        batches = [single[i : i + size] for i in range(0, len(single), size)]
    draw = draw_batches(files, preprocessing.augment, options, is_single)
    return Distillation(student, teacher, draw, batches, options, folder, labels).run()
