"""Several tasks on one latent (*Analysis on Compressed Domain: A Multi-Task Learning Approach*)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import nn

from cdl_d2.d2.modeling.coding_report import CodingReport
from cdl_d2.d2.modeling.meta_arch.compressed_model import CompressedModel
from cdl_d2.d2.modeling.selected_channels import SelectedChannels
from cdl_d2.d2.modeling.task_heads import Features, Shown, TaskHead, build_head
from cdl_d2.d2.modeling.task_weighting import TaskWeighting
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import rate_fields


@META_ARCH_REGISTRY.register()
class CompressedMultitask(CompressedModel):
    """A backbone on latents, decoded or original images, and a head for each task.

    The codec is frozen, so that latents know nothing of the tasks: the task-agnostic setting of
    the authors' longer paper (arXiv 2304.06896).
    """

    @configurable
    def __init__(
        self,
        *,
        coded_input: CodedInput,
        selection: SelectedChannels | None = None,
        backbone: Backbone,
        heads: Mapping[str, TaskHead],
        weighting: TaskWeighting,
        pixel_mean: list[float],
        pixel_std: list[float],
        report: CodingReport | None = None,
    ):
        """
        Args:
            coded_input, selection: what is looked at, see CompressedModel.
            backbone: the trunk that all tasks share.
            heads: of the tasks, by name.
            weighting: of their losses.
            pixel_mean, pixel_std: of pixels in 0..255, in the order of INPUT.FORMAT.
            report: what evaluation says of the coded images; None for their estimated bits only.
        """
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleDict(heads)
        self.set_input(coded_input, selection)
        self.weighting, self._report = weighting, report
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone, tasks = build_backbone(cfg), cfg.MODEL.TASKS
        weights = dict(zip(tasks.NAMES, tasks.WEIGHTS, strict=False))
        if len(tasks.WEIGHTS) != len(tasks.NAMES) or len(weights) != len(tasks.NAMES):
            raise CdlError(
                f"MODEL.TASKS.NAMES {tuple(tasks.NAMES)} and WEIGHTS {tuple(tasks.WEIGHTS)}: give "
                "each task once, and a weight for each"
            )
        return {
            **cls.input_from_config(cfg),
            "backbone": backbone,
            "heads": {name: build_head(name, cfg, backbone.output_shape()) for name in tasks.NAMES},
            "weighting": TaskWeighting(weights, tasks.WEIGHTING),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "report": CodingReport.from_config(cfg),
        }

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Losses in training; otherwise what each task predicts of each image.

        Args:
            batched_inputs: items, each with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or instead
                latent or reconstruction, see CodedInput.encode, and image_size: (H, W);
                what the tasks learn from, see their heads;
                height, width: of the original image, to which label maps are scaled; optional.

        Returns:
            in training `loss_TASK`, weighted, and of a gate `loss_rate`; otherwise a dict an item:
            the heads' results (`attributes`, `sem_seg`) and notes, and of a coded image `bits`,
            `image_size` and, of a model that selects, `channels`; with a report what CodingReport
            says.

        Raises:
            CdlError: see CodedInput.encode and the heads.
        """
        items = self.select_channels(self.encode(batched_inputs))
        if self.training:
            return self.task_losses(items) | self.gate_losses(items)
        features, shown = self.features(items)
        outputs = [rate_fields(item) for item in items]
        if self._report is not None:
            for output, item in zip(outputs, items, strict=True):
                output |= self._report(self.coded_input, item, self.device)
        for head in self.heads.values():
            for output, found in zip(outputs, head.predict(features, shown), strict=True):
                output |= {head.result: found, **head.notes}
        return outputs

    def features(self, items: list[dict[str, Any]]) -> tuple[Features, Shown]:
        """What the backbone makes of encoded items."""
        batch = self.batch(items)
        shown = Shown(items, batch.image_sizes, self.coded_input.padded_size(batch.tensor))
        return self.backbone(batch.tensor), shown

    def task_losses(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`loss_TASK` of encoded items, weighted."""
        features, shown = self.features(items)
        losses = {name: head.loss(features, shown) for name, head in self.heads.items()}
        return {f"loss_{name}": loss for name, loss in self.weighting(losses).items()}
