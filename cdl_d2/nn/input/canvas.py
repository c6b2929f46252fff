"""Where an image lies in what a network is shown: not at the first pixel, if it was padded above or
to the left before it was coded, by a number of pixels that is no number of whole latent cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cdl_d2.errors import CdlError
from cdl_d2.nn.input.batch_item import image_size_of


@dataclass(frozen=True)
class Canvas:
    """All that a network is shown of an item, at the scale of the results; the image is its lower
    right part.

    Attributes:
        size: (H, W) of the canvas in pixels of the results.
        start: (top, left), where the image begins on it.
        shown: (H, W) of the canvas in pixels of the item.
        origin: (top, left) of the image in pixels of the item, `image_origin`.
    """

    size: tuple[int, int]
    start: tuple[int, int]
    shown: tuple[int, int]
    origin: tuple[int, int]

    @classmethod
    def of(cls, item: dict[str, Any]) -> Canvas:
        """Of an encoded item, whose results are wanted at `height` x `width`, or at its own size;
        raises as image_size_of."""
        shown, origin = image_size_of(item), item.get("image_origin", (0, 0))
        size, start = [], []
        for key, all_of_it, before in zip(("height", "width"), shown, origin, strict=True):
            wanted = item.get(key, all_of_it - before)
            start.append(round(before * wanted / (all_of_it - before)) if before else 0)
            size.append(wanted + start[-1])
        return cls(tuple(size), tuple(start), shown, origin)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the image in pixels of the results."""
        return self.size[0] - self.start[0], self.size[1] - self.start[1]

    def points_on_image(self, points: torch.Tensor) -> torch.Tensor:
        """Points ... x 2, (x, y) in pixels of the image, of those on the canvas."""
        sides = (1, 0)  # x is along the width
        scale, before, zoom = (
            points.new_tensor(values)
            for values in (
                [self.shown[i] / self.size[i] for i in sides],
                [self.origin[i] for i in sides],
                [self.image_size[i] / (self.shown[i] - self.origin[i]) for i in sides],
            )
        )
        return (points * scale - before) * zoom

    def boxes_on_image(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes D x 4, (left, top, right, bottom), as points_on_image, and clipped to the image."""
        moved = self.points_on_image(boxes.unflatten(-1, (2, 2)))
        return moved.clamp(min=0).minimum(moved.new_tensor(self.image_size[::-1])).flatten(-2)

    def maps_on_image(self, maps: torch.Tensor) -> torch.Tensor:
        """The image's part of maps ... x H x W of the canvas; exact at the item's own scale, else
        within half a pixel."""
        return maps[..., self.start[0] :, self.start[1] :]


def require_no_origin(items: Sequence[dict[str, Any]]) -> None:
    """Raise CdlError if an item to train on has `image_origin`: its labels are of the image."""
    for item in items:
        if "image_origin" in item:
            raise CdlError(
                f"an item's image begins at {tuple(item['image_origin'])} in its latent, since it "
                "was padded above or to the left: train on images that are encoded here, or padded "
                "on the right and at the bottom only"
            )
