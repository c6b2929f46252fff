"""What all detectors of the compressed domain share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.structures import ImageList

from cdl_d2.d2.modeling.mask_losses import HAS_MASK, without_unmasked
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import get_image_size, rate_fields


class CompressedDetector(CompressedModel):
    """For a detector to inherit from, before any meta-architecture of Detectron2 that batches
    images in its `preprocess_image`, such as GeneralizedRCNN, PanopticFPN or RetinaNet: boxes,
    masks and `ImageList.image_sizes` are in pixels in every domain.

    ```python
    @META_ARCH_REGISTRY.register()
    class CompressedMine(CompressedDetector, Mine): ...
    ```
    """

    @configurable
    def __init__(
        self, *, coded_input: CodedInput, selection: SelectedChannels | None = None, **kwargs
    ):
        """
        Args:
            coded_input, selection: what is looked at, see CompressedModel.
            kwargs: those of Detectron2's detector.

        Raises:
            CdlError: for a meta-architecture without `preprocess_image`.
        """
        super().__init__(**kwargs)
        if not hasattr(super(), "preprocess_image"):
            raise CdlError(
                f"{type(self).__name__}: what it inherits from batches images outside of a "
                "`preprocess_image`, where latents would take their place: write its `forward`, as "
                "CompressedSegmentor does"
            )
        self.set_input(coded_input, selection)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **cls.input_from_config(cfg)}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Losses in training; otherwise what is found.

        Args:
            batched_inputs: items, each with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or instead
                latent: M x ceil(H/16) x ceil(W/16), and image_size: (H, W); or reconstruction, as
                image, see CodedInput.encode, which makes both;
                instances: in training, an Instances with gt_boxes, gt_classes and what the heads
                learn from (gt_masks, gt_keypoints; gt_has_mask where an object has no mask);
                sem_seg: in training of PanopticFPN, H x W labels;
                height, width: of the original image, to which results are scaled; optional.

        Returns:
            in training the losses of Detectron2's detector and, of a gate, `loss_rate`; otherwise
            a dict an item: what Detectron2's gives (`instances`, with pred_boxes, pred_classes,
            scores and what heads add; of PanopticFPN also `sem_seg` and `panoptic_seg`), and of a
            coded image `bits`, `image_size` and, of a model that selects, `channels`.

        Raises:
            CdlError: see CodedInput.encode and CompressedModel.select.
        """
        if not self.training:
            return self.inference(batched_inputs)
        items = self.select_channels(self.encode(batched_inputs))
        instances = [item["instances"] for item in items if "instances" in item]
        some_unmasked = any(objects.has(HAS_MASK) for objects in instances)
        with without_unmasked(self) if some_unmasked else nullcontext():
            losses = super().forward(items)
        return losses | self.gate_losses(items)

    def inference(self, batched_inputs: list[dict[str, Any]], *args, **kwargs):
        """What `forward` gives in evaluation, by Detectron2's own `inference`, if it has one.

        Args:
            batched_inputs: as for `forward`.
            args, kwargs: those of Detectron2's, for R-CNNs `detected_instances`, an Instances with
                pred_boxes and pred_classes for each item, of which masks are wanted, and
                `do_postprocess`: whether results are scaled to `height` and `width`. A list has
                an entry for each item.

        Returns:
            without post-processing what Detectron2's gives, such as bare Instances, whose boxes
            are in pixels of what is shown, as those of `detected_instances` are.
        """
        items = self.select_channels(self.encode(batched_inputs))
        detect = getattr(super(), "inference", super().forward)
        results = self._in_equal_batches(items, detect, args, kwargs)
        if isinstance(results, list) and all(isinstance(result, dict) for result in results):
            return [result | rate_fields(item) for result, item in zip(results, items, strict=True)]
        return results

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
        if shown.has_pixels:
            return super().preprocess_image([{"image": i[shown.domain]} for i in batched_inputs])
        multiple = self.padding_multiple
        return ImageList(*shown.batch(batched_inputs, self.device, multiple, lambda pixels: pixels))

    def _in_equal_batches(
        self,
        items: list[dict[str, Any]],
        detect: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What `detect` finds in items, given some that have one padded size at a time, so that
        what is found in an image does not depend on its batch mates; see `inference`."""
        multiple = self.padding_multiple
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, item in enumerate(items):
            size = tuple(-(-side // multiple) for side in get_image_size(item))
            groups.setdefault(size, []).append(index)
        results: list[Any] = [None] * len(items)
        several = False  # kinds of results, such as instances and label maps
        for members in groups.values():
            more = {name: _entries(value, members) for name, value in kwargs.items()}
            given = [_entries(value, members) for value in (items, *args)]
            found = detect(*given, **more)
            several = isinstance(found, tuple)
            each = zip(*found, strict=True) if several else found
            for index, result in zip(members, each, strict=True):
                results[index] = result
        return tuple(map(list, zip(*results, strict=True))) if several else results


def _entries(value: Any, members: list[int]) -> Any:
    """Those of some items, of a list with an entry for each item; anything else as it is."""
    return [value[index] for index in members] if isinstance(value, list) else value
