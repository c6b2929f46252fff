"""R-CNN detectors whose input is a codec's latent, a decoded image, or the original image."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN

from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector


@META_ARCH_REGISTRY.register()
class CompressedRCNN(CompressedDetector, GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN (Faster, Mask, Keypoint or Cascade R-CNN) in the compressed
    domain. Losses are `loss_rpn_cls`, `loss_rpn_loc`, `loss_cls`, `loss_box_reg` and `loss_mask`.
    """


@META_ARCH_REGISTRY.register()
class CompressedPanopticFPN(CompressedDetector, PanopticFPN):
    """Detectron2's PanopticFPN in the compressed domain: Mask R-CNN and a semantic segmentation
    head on one pyramid. Losses are those of CompressedRCNN, and `loss_sem_seg`."""
