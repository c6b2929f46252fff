"""One-stage detectors whose input is a codec's latent, a decoded image, or the original image."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import FCOS, META_ARCH_REGISTRY, RetinaNet

from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector


class CompressedDenseDetector(CompressedDetector):
    """For a DenseDetector of Detectron2 to inherit from, before it."""

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Losses in training; otherwise detections.

        Args:
            batched_inputs: items, each with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or instead
                latent or reconstruction, see CodedInput.encode, and image_size: (H, W);
                instances: in training, an Instances with gt_boxes and gt_classes;
                height, width: of the original image, to which results are scaled; optional.

        Returns:
            in training the detector's losses and, of a gate, `loss_rate`; otherwise a dict an item:
            `instances`, with pred_boxes, pred_classes and scores, and of a coded image `bits`,
            `image_size` and, of a model that selects, `channels`.

        Raises:
            CdlError: see CodedInput.encode and CompressedModel.select.
        """
        items = self.select(self.encode(batched_inputs))
        if self.training:
            return super().forward(items) | self.selection_losses(items)
        forward, canvases = super().forward, self.on_canvases(items)

        def detect(members: list[int]) -> list[Any]:
            return forward([canvases[i] for i in members])

        return self.with_rates(self.in_equal_batches(items, detect), items)


@META_ARCH_REGISTRY.register()
class CompressedRetinaNet(CompressedDenseDetector, RetinaNet):
    """Detectron2's RetinaNet in the compressed domain."""


class CompressedFCOS(CompressedDenseDetector, FCOS):
    """Detectron2's FCOS in the compressed domain; Detectron2 builds it from a LazyConfig only."""
