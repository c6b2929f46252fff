"""Labels of the proposal networks of Detectron2: the detections of the RGB model."""

from __future__ import annotations

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

from cdl_d2.conversion.proposal_labels import LEAST_SCORE, ProposalLabels


def proposal_labels(student: nn.Module, teacher: nn.Module) -> ProposalLabels | None:
    """Return the labels of a student that lacks anchors of its RGB model; None of another one."""
    networks = [getattr(model, "proposal_generator", None) for model in (student, teacher)]
    if not (isinstance(teacher, GeneralizedRCNN) and isinstance(networks[1], RPN)):
        return None
    levels, teacher_levels = (set(network.in_features) for network in networks)
    if teacher_levels <= levels:
        return None
    head = "network.proposal_generator.rpn_head"
    return ProposalLabels(head, networks[0], teacher.roi_heads, _to_labels, EventStorage)


def _to_labels(detections: Instances) -> Instances:
    boxes = detections.pred_boxes[detections.scores > LEAST_SCORE]
    return Instances(detections.image_size, gt_boxes=boxes)
