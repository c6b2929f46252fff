"""R-CNN detectors whose input is a codec's latent, a decoded image, or the original image."""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList, Instances

from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.nn.coded_input import CodedInput, image_size_of, reported


@META_ARCH_REGISTRY.register()
class CompressedRCNN(CompressedModel, GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN (Faster or Mask R-CNN) in the compressed domain.

    Boxes, masks and `ImageList.image_sizes` are in pixels in every domain.
    """

    @configurable
    def __init__(
        self, *, coded_input: CodedInput, selection: SelectedChannels | None = None, **kwargs
    ):
        """
        Args:
            coded_input, selection: what is looked at, see CompressedModel.
            kwargs: those of GeneralizedRCNN.
        """
        super().__init__(**kwargs)
        self.look_at(coded_input, selection)

    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), **cls.input_of(cfg)}

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Losses in training; otherwise detections.

        Args:
            batched_inputs: items, each with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or instead
                latent: M x ceil(H/16) x ceil(W/16), and image_size: (H, W); or reconstruction, as
                image, see CodedInput.encode, which makes both;
                instances: in training, an Instances with gt_boxes, gt_classes and, for masks,
                gt_masks;
                height, width: of the original image, to which results are scaled; optional.

        Returns:
            in training `loss_rpn_cls`, `loss_rpn_loc`, `loss_cls`, `loss_box_reg`, `loss_mask` and,
            of a gate, `loss_rate`; otherwise a dict an item: `instances`, with pred_boxes,
            pred_classes, scores and pred_masks, and of a coded image `bits`, `image_size` and, of
            a model that selects, `channels`.

        Raises:
            CdlError: see CodedInput.encode and CompressedModel.select.
        """
        if self.training:
            items = self.select(self.encode(batched_inputs))
            return super().forward(items) | self.selection_losses(items)
        return self.inference(batched_inputs)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """Detections, as `forward` gives them, or with boxes given, masks for these.

        Args:
            detected_instances: an Instances with pred_boxes and pred_classes for each item.
            do_postprocess: scale results to `height` and `width`; without, bare Instances.

        Images are batched only with images of the same padded size, so that what is found in an
        image does not depend on its batch mates.
        """
        items = self.select(self.encode(batched_inputs))
        groups: dict[tuple[int, int], list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(self._padded_size(item), []).append(index)
        results: list[Any] = [None] * len(items)
        for members in groups.values():
            known = detected_instances and [detected_instances[i] for i in members]
            group = super().inference([items[i] for i in members], known, do_postprocess)
            for i, result in zip(members, group, strict=True):
                results[i] = result
        if do_postprocess:
            for result, item in zip(results, items, strict=True):
                result.update(reported(item))
        return results

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Batch what the domain looks at; latents are padded with zeros to whole strides."""
        shown = self.coded_input
        if shown.domain != "latent":
            return super().preprocess_image([{"image": i[shown.domain]} for i in batched_inputs])
        multiple = self.backbone.size_divisibility
        return ImageList(*shown.batch(batched_inputs, self.device, multiple, lambda pixels: pixels))

    def _padded_size(self, item: dict[str, Any]) -> tuple[int, int]:
        multiple = self.backbone.size_divisibility
        height, width = image_size_of(item)
        return -(-height // multiple), -(-width // multiple)
