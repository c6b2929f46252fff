"""The whole graph of a detector: from the input of one image to its objects.

Shapes: C channels, h x w positions of the input, D objects, S x S pixels of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from cdl_d2.codec.latent import coded_cells
from cdl_d2.errors import CdlError
from cdl_d2.export.graphs import Axis, InputGrid
from cdl_d2.export.whole_graphs import Tensors, Value, WholeGraph
from cdl_d2.nn.input.coded_input import CodedInput

BOX_TOLERANCE = 1e-5  # of the longest side of the image
LEAST_BOX_TOLERANCE = 1e-3  # pixels
SCORE_TOLERANCE = 1e-3  # also of mask probabilities
LEAST_SHARE = 0.95  # of equal objects: scores and overlaps can be as near to their thresholds
TILE = 24  # pixels per side of a rectangle in the images that are compared

BOXES = "left, top, right, bottom in pixels of the encoded image"
OBJECTS = {
    "boxes": ((Axis("d"), 4), BOXES, "float32"),
    "scores": ((Axis("d"),), "0 to 1, highest first", "float32"),
    "classes": ((Axis("d"),), "indices of class_names", "int64"),
    "masks": ((Axis("d"), Axis("s"), Axis("s")), "0 to 1, on the box of each object", "float32"),
}


def fit_to_batch(
    inputs: torch.Tensor, image_size: torch.Tensor, positions: int, coded_input: CodedInput
) -> torch.Tensor:
    """Pad or crop the input of one image to a batch of CodedInput; can be traced.

    Args:
        inputs: 1 x C x h x w.
        image_size: (H, W) in pixels, int64.
        positions: number of positions of which both sides are multiples, besides the margin.
        coded_input: domain and codec.
    """
    step = positions * coded_input.stride
    sides = ((side + step - 1) // step * positions + coded_input.margin for side in image_size)
    below, right = (side - own for side, own in zip(sides, inputs.shape[-2:], strict=True))
    return F.pad(inputs, (0, right, 0, below))


def detector_graph(
    module: nn.Module,
    grid: InputGrid,
    normalize: Callable[[torch.Tensor], torch.Tensor],
    with_masks: bool,
) -> WholeGraph:
    """Return the graph `detector`.

    Args:
        module: maps the input, 1 x C x h x w, and (H, W) of the image in pixels,
            int64, to boxes (D x 4), scores (D), classes (D, from 0) and, perhaps, masks
            (D x S x S).
        grid: input of the network.
        normalize: function of pixels, 3 x H x W in 0..255, to a network's input.
        with_masks: the module returns masks.
    """
    coded_input, sides = grid.coded_input, (Axis("h"), Axis("w"))
    positions = "of one image, without padding"
    if coded_input.margin:
        positions = "all that are coded of one image"
    if grid.fixed is not None:
        sides = tuple(-(-side // coded_input.stride) for side in grid.fixed)
        sides = coded_cells(grid.fixed) if coded_input.margin else sides
    inputs = (
        Value(grid.name, (1, coded_input.channels, *sides), positions),
        Value("image_size", (2,), "height and width of the encoded image, in pixels", "int64"),
    )
    names = [name for name in OBJECTS if with_masks or name != "masks"]
    outputs = tuple(Value(name, *OBJECTS[name]) for name in names)
    sizes = [grid.fixed] * 2 if grid.fixed else [grid.example, _other_size(grid.example)]

    def examples() -> list[Tensors]:
        return [_example(grid, size, seed, normalize) for seed, size in enumerate(sizes)]

    def compare(expected: Sequence[Tensors], results: Sequence[Tensors]) -> str:
        return _compare(expected, results, max(map(max, sizes)))

    return WholeGraph("detector", module.eval(), inputs, outputs, examples, compare)


def _other_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size of another shape, which is no multiple of a stride."""
    return size[1] - 5, size[0] + 9


def _example(
    grid: InputGrid,
    size: tuple[int, int],
    seed: int,
    normalize: Callable[[torch.Tensor], torch.Tensor],
) -> Tensors:
    """Return the input for an image of coloured rectangles, and its size."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.rand(1, 3, *(-(-side // TILE) for side in size), generator=generator)
    image = F.interpolate(tiles, size).mul(255).round().byte()[0]
    coded_input = grid.coded_input.on_cpu()
    sample = coded_input.encode({"image": image}, with_bits=False)
    inputs = sample[coded_input.domain]
    return (normalize(inputs) if coded_input.has_pixels else inputs)[None], torch.tensor(size)


def _compare(expected: Sequence[Tensors], results: Sequence[Tensors], longest: int) -> str:
    """Compare the objects of several images; raise CdlError unless almost all are equal."""
    tolerance = max(BOX_TOLERANCE * longest, LEAST_BOX_TOLERANCE)
    pairs = zip(expected, results, strict=True)
    differences = torch.cat([_object_differences(*pair) for pair in pairs])
    equal = differences[differences <= tolerance]
    count = max(len(differences), sum(len(outputs[0]) for outputs in results))
    if len(equal) < LEAST_SHARE * count:
        raise CdlError(
            f"detector, exported, finds {len(equal)} of the model's {len(differences)} objects to "
            f"{tolerance:g} pixels, and {count - len(equal)} others"
        )
    if not len(equal):
        return "no objects in the images that were compared"
    return f"{len(equal)} of {count} objects are equal, boxes to {float(equal.max()):.1e} pixels"


def _object_differences(expected: Tensors, results: Tensors) -> torch.Tensor:
    """Return the largest difference of each object's box from the most similar one in `results`.

    Infinite if no object of the class has the same score and mask.
    """
    if not len(expected[0]) or not len(results[0]):
        return torch.full((len(expected[0]),), torch.inf)
    boxes, scores, classes, *masks = (
        (a[:, None] - b[None]).abs() for a, b in zip(expected, results, strict=True)
    )
    wrong = (classes > 0) | (scores > SCORE_TOLERANCE)
    for mask in masks:
        wrong |= mask.flatten(2).amax(2) > SCORE_TOLERANCE
    return boxes.amax(2).masked_fill(wrong, torch.inf).amin(1)
