"""R-CNN detectors whose input is a codec's latent, a decoded image, or the original image."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances

from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector


@META_ARCH_REGISTRY.register()
class CompressedRCNN(CompressedDetector, GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN (Faster, Mask or Cascade R-CNN) in the compressed domain."""

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
            do_postprocess: scale results to `height` and `width`; without, bare Instances, whose
                boxes are in pixels of what is shown, as those of `detected_instances` are.
        """
        items = self.select(self.encode(batched_inputs))
        canvases = self.on_canvases(items)

        def detect(members: list[int]) -> list[Any]:
            known = detected_instances and [detected_instances[i] for i in members]
            group = [canvases[i] for i in members]
            return super(CompressedRCNN, self).inference(group, known, do_postprocess)

        results = self.in_equal_batches(items, detect)
        return self.with_rates(results, items) if do_postprocess else results
