"""Labels of a proposal network on unlabelled images: the detections of its RGB model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import nn

LEAST_SCORE = 0.3  # of a detection that is a label
WEIGHT = 0.3  # of the losses, beside those of features and outputs

Inputs = tuple[ImageList, dict[str, torch.Tensor], list[Instances] | None]  # of an RPN


def lacks_anchors(student: nn.Module, teacher: nn.Module) -> bool:
    """Return whether a student's proposal network lacks levels of the teacher's."""
    proposal_networks = [getattr(model, "proposal_generator", None) for model in (student, teacher)]
    if not (isinstance(teacher, GeneralizedRCNN) and isinstance(proposal_networks[1], RPN)):
        return False
    levels, teacher_levels = (set(network.in_features) for network in proposal_networks)
    return bool(teacher_levels - levels)


class ProposalLabels:
    """Loss of a student's proposal network whose labels are its RGB model's detections.

    It is for a student without the finest level of the pyramid, which has to find small objects by
    anchors of the next level. In the RGB model these have low scores there, as anchors of the
    finest level find these objects.

    The losses are those of *Faster R-CNN* (arXiv 1506.01497, section 3.1.2) for detections with a
    score above LEAST_SCORE, times WEIGHT.

    Args:
        student: its proposal network is in eval mode.
        teacher: RGB model.

    Attributes:
        module: name of the part of a SampleNetwork that learns by the labels.
    """

    module = "network.proposal_generator.rpn_head"

    def __init__(self, student: GeneralizedRCNN, teacher: GeneralizedRCNN):
        self._rpn, self._teacher_heads = student.proposal_generator, teacher.roi_heads
        self._labels: deque[list[Instances]] = deque()  # of each call of the teacher
        self._losses: list[torch.Tensor] = []  # of each call of the student

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the loss while the teacher runs on images, and then the student on the same."""
        self._labels.clear()
        self._losses.clear()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(EventStorage())  # the losses write statistics
            for handle in (
                self._teacher_heads.register_forward_hook(self._keep_labels),
                self._rpn.register_forward_pre_hook(self._give_labels),
                self._rpn.register_forward_hook(self._keep_loss),
            ):
                stack.callback(handle.remove)
            stack.callback(self._rpn.train, False)
            yield

    def take(self) -> torch.Tensor:
        """Return the loss of the last run."""
        return WEIGHT * torch.stack(self._losses).mean()

    def _keep_labels(
        self, heads: nn.Module, inputs: Any, output: tuple[list[Instances], Any]
    ) -> None:
        self._labels.append([_as_labels(detections) for detections in output[0]])

    def _give_labels(self, rpn: RPN, inputs: Inputs) -> Inputs:
        images, features, _ = inputs
        rpn.training = True
        torch.manual_seed(0)  # of the anchors that are sampled
        return images, features, self._labels.popleft()

    def _keep_loss(
        self, rpn: RPN, inputs: Inputs, output: tuple[Any, dict[str, torch.Tensor]]
    ) -> None:
        rpn.training = False
        self._losses.append(torch.stack([*output[1].values()]).sum())


def _as_labels(detections: Instances) -> Instances:
    boxes = detections.pred_boxes[detections.scores > LEAST_SCORE]
    return Instances(detections.image_size, gt_boxes=boxes)
