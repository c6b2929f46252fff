"""Labels of a proposal network on unlabelled images: the detections of its RGB model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

LEAST_SCORE = 0.3  # of a detection that is a label
WEIGHT = 0.3  # of the losses, beside those of features and outputs


class ProposalLabels:
    """Loss of a student's proposal network whose labels are its RGB model's detections.

    It is for a student without the finest level of the pyramid, which has to find small objects by
    anchors of the next level. In the RGB model these have low scores there, as anchors of the
    finest level find these objects.

    The losses are those of *Faster R-CNN* (arXiv 1506.01497, section 3.1.2) for detections with a
    score above LEAST_SCORE, times WEIGHT.

    Args:
        module: name of the head that learns by the labels, in the student of a Distillation.
        proposal_network: the student's, of Detectron2 or torchvision, in eval mode.
        teacher_heads: heads of the RGB model that return the detections of each image.
        to_labels: function from the detections of an image to labels of the proposal network.
        context: in which the proposal network computes its losses.

    Attributes:
        module: that name.
    """

    def __init__(
        self,
        module: str,
        proposal_network: nn.Module,
        teacher_heads: nn.Module,
        to_labels: Callable[[Any], Any],
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.module, self._network, self._teacher_heads = module, proposal_network, teacher_heads
        self._to_labels, self._context = to_labels, context
        self._labels: deque[list[Any]] = deque()  # of each call of the teacher
        self._losses: list[torch.Tensor] = []  # of each call of the student

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the loss while the teacher runs on images, and then the student on the same."""
        self._labels.clear()
        self._losses.clear()
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(self._context())
            for handle in (
                self._teacher_heads.register_forward_hook(self._keep_labels),
                self._network.register_forward_pre_hook(self._give_labels),
                self._network.register_forward_hook(self._keep_loss),
            ):
                stack.callback(handle.remove)
            stack.callback(self._network.train, False)
            yield

    def loss(self) -> torch.Tensor:
        """Return the loss of the last run."""
        return WEIGHT * torch.stack(self._losses).mean()

    def _keep_labels(self, heads: nn.Module, inputs: Any, output: tuple[list[Any], Any]) -> None:
        self._labels.append([self._to_labels(detections) for detections in output[0]])

    def _give_labels(
        self, network: nn.Module, inputs: tuple[Any, Any, None]
    ) -> tuple[Any, Any, list[Any]]:
        images, features, _ = inputs
        network.training = True
        torch.manual_seed(0)  # of the anchors that are sampled
        return images, features, self._labels.popleft()

    def _keep_loss(
        self, network: nn.Module, inputs: Any, output: tuple[Any, dict[str, torch.Tensor]]
    ) -> None:
        network.training = False
        self._losses.append(torch.stack([*output[1].values()]).sum())
