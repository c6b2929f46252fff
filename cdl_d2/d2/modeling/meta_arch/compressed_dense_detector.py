"""One-stage detectors on latents, reconstructions or original images."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import FCOS, META_ARCH_REGISTRY, RetinaNet, build_backbone
from detectron2.modeling.meta_arch.fcos import FCOSHead

from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector


@META_ARCH_REGISTRY.register()
class CompressedRetinaNet(CompressedDetector, RetinaNet):
    """Detectron2's RetinaNet in the compressed domain."""


@META_ARCH_REGISTRY.register()
class CompressedFCOS(CompressedDetector, FCOS):
    """Detectron2's FCOS in the compressed domain, configured by the keys of MODEL.RETINANET.

    These are IN_FEATURES, NUM_CLASSES, NUM_CONVS, NORM, PRIOR_PROB, FOCAL_LOSS_ALPHA and GAMMA,
    SCORE_THRESH_TEST, TOPK_CANDIDATES_TEST and NMS_THRESH_TEST.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        keys, backbone = cfg.MODEL.RETINANET, build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in keys.IN_FEATURES]
        head = FCOSHead(
            input_shape=shapes,
            num_classes=keys.NUM_CLASSES,
            conv_dims=[shapes[0].channels] * keys.NUM_CONVS,
            norm=keys.NORM,
            prior_prob=keys.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "head_in_features": keys.IN_FEATURES,
            "num_classes": keys.NUM_CLASSES,
            "focal_loss_alpha": keys.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": keys.FOCAL_LOSS_GAMMA,
            "test_score_thresh": keys.SCORE_THRESH_TEST,
            "test_topk_candidates": keys.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": keys.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            **cls.input_from_config(cfg),
        }
