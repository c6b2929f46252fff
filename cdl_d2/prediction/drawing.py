"""Drawing of boxes, masks, label maps and text on images, 3 x H x W, uint8, RGB.

Shapes: D objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

THRESHOLD = 0.5  # lowest score of objects in a picture
PALETTE = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c"]


def draw_objects(
    image: torch.Tensor,
    boxes: torch.Tensor,
    labels: Sequence[int],
    texts: Sequence[str] | None = None,
    masks: torch.Tensor | None = None,
    keypoints: torch.Tensor | None = None,
    width: int = 1,
) -> torch.Tensor:
    """Draw objects, each in the color of its label.

    Args:
        image: 3 x H x W, uint8, RGB.
        boxes: D x 4, left, top, right, bottom in pixels.
        labels: D class numbers.
        texts: D texts beside the boxes.
        masks: D x H x W booleans.
        keypoints: D x P x 2, x and y in pixels.
        width: of the lines, in pixels.
    """
    if not len(boxes):
        return image
    colors = [PALETTE[label % len(PALETTE)] for label in labels]
    if masks is not None:
        image = draw_segmentation_masks(image, masks, alpha=0.5, colors=colors)
    image = draw_bounding_boxes(image, boxes, texts and list(texts), colors, width=width)
    if keypoints is not None:
        image = draw_keypoints(image, keypoints, colors=PALETTE[0])
    return image


def draw_label_map(image: torch.Tensor, label_map: torch.Tensor) -> torch.Tensor:
    """Blend an image with the colors of the classes in a label map, H x W."""
    labels = label_map.unique().tolist()
    masks = torch.stack([label_map == label for label in labels])
    colors = [PALETTE[label % len(PALETTE)] for label in labels]
    return draw_segmentation_masks(image, masks, alpha=0.5, colors=colors)


def draw_lines(image: torch.Tensor, lines: Sequence[str]) -> torch.Tensor:
    """Frame an image and write lines of text into its upper left corner."""
    frame = torch.tensor([[0.0, 0.0, *(side - 1 for side in image.shape[:0:-1])]])
    return draw_bounding_boxes(image, frame, ["\n".join(lines)], [PALETTE[0]])
