"""What all detectors of the compressed domain share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, ImageList, Instances

from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.nn.canvas import Canvas
from cdl_d2.nn.coded_input import CodedInput, image_size_of, reported


class CompressedDetector(CompressedModel):
    """For a detector to inherit from, before Detectron2's: boxes, masks and
    `ImageList.image_sizes` are in pixels in every domain."""

    @configurable
    def __init__(
        self, *, coded_input: CodedInput, selection: SelectedChannels | None = None, **kwargs
    ):
        """
        Args:
            coded_input, selection: what is looked at, see CompressedModel.
            kwargs: those of Detectron2's detector.
        """
        super().__init__(**kwargs)
        self.look_at(coded_input, selection)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **cls.input_of(cfg)}

    def visualize_training(self, batched_inputs: list[dict[str, Any]], *found: Any) -> None:
        """As Detectron2's, at VIS_PERIOD; on the decoded image where an item has no `image`."""
        pictures = [i | {"image": self.coded_input.picture(i)} for i in batched_inputs]
        super().visualize_training(pictures, *found)

    @property
    def padding_multiple(self) -> int:
        """Pixels, of which both sides of a batch are a multiple; some backbones name none."""
        return max(self.backbone.size_divisibility, self.coded_input.stride)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Batch what the domain looks at; latents are padded with zeros to whole strides."""
        shown = self.coded_input
        if shown.domain != "latent":
            return super().preprocess_image([{"image": i[shown.domain]} for i in batched_inputs])
        multiple = self.padding_multiple
        return ImageList(*shown.batch(batched_inputs, self.device, multiple, lambda pixels: pixels))

    def in_equal_batches(
        self, items: list[dict[str, Any]], detect: Callable[[list[int]], list[Any]]
    ) -> list[Any]:
        """What `detect` finds in items, given the indices of some that have one padded size, so
        that what is found in an image does not depend on its batch mates."""
        multiple = self.padding_multiple
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(items):
            size = tuple(-(-side // multiple) for side in image_size_of(item))
            groups.setdefault(size, []).append(index)
        results: list[Any] = [None] * len(items)
        for members in groups.values():
            for index, result in zip(members, detect(members), strict=True):
                results[index] = result
        return results

    @staticmethod
    def on_canvases(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Encoded items whose results are wanted of all that is shown, see Canvas; with_rates cuts
        them to the image."""
        sizes = (Canvas.of(item).size if "image_origin" in item else None for item in items)
        return [
            item | ({"height": size[0], "width": size[1]} if size else {})
            for item, size in zip(items, sizes, strict=True)
        ]

    @staticmethod
    def with_rates(results: list[dict], items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of on_canvases(items), cut to the image, with what items say about its code."""
        return [on_image(r, item) | reported(item) for r, item in zip(results, items, strict=True)]


def on_image(result: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """A result for all that a model is shown, cut to the image, see Canvas."""
    if "image_origin" not in item:
        return result
    canvas, result = Canvas.of(item), dict(result)
    if "sem_seg" in result:
        result["sem_seg"] = canvas.maps_on_image(result["sem_seg"])
    if "panoptic_seg" in result:
        segments, described = result["panoptic_seg"]
        result["panoptic_seg"] = canvas.maps_on_image(segments), described
    if "instances" in result:
        result["instances"] = _instances_on_image(result["instances"], canvas)
    return result


def _instances_on_image(found: Instances, canvas: Canvas) -> Instances:
    fields = found.get_fields()
    boxes = Boxes(canvas.boxes_on_image(found.pred_boxes.tensor))
    moved = Instances(canvas.image_size, **(fields | {"pred_boxes": boxes}))
    if "pred_masks" in fields:
        moved.pred_masks = canvas.maps_on_image(found.pred_masks)
    if "pred_keypoints" in fields:
        points = canvas.points_on_image(found.pred_keypoints[..., :2])
        moved.pred_keypoints = torch.cat([points, found.pred_keypoints[..., 2:]], dim=-1)
    return moved[boxes.nonempty()]
