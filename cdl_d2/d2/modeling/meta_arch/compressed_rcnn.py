"""R-CNN detectors on latents, reconstructions or original images."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, PanopticFPN

from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector


@META_ARCH_REGISTRY.register()
class CompressedRCNN(CompressedDetector, GeneralizedRCNN):
    """Detectron2's GeneralizedRCNN (Faster, Mask, Keypoint, Cascade R-CNN) on codec output.

    Losses are `loss_rpn_cls`, `loss_rpn_loc`, `loss_cls`, `loss_box_reg` and `loss_mask`.
    """


@META_ARCH_REGISTRY.register()
class CompressedPanopticFPN(CompressedDetector, PanopticFPN):
    """Detectron2's PanopticFPN in the compressed domain.

    Losses are those of CompressedRCNN, and `loss_sem_seg`.
    """
