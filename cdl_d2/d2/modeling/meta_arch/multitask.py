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
from cdl_d2.d2.modeling.task_heads import BatchInfo, Features, TaskHead, build_head
from cdl_d2.d2.modeling.task_weighting import TaskWeighting
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.sample import rate_fields


@META_ARCH_REGISTRY.register()
class CompressedMultitask(CompressedModel):
    """Backbone on latents, reconstructions or original images, with a head per task.

    The codec is frozen and independent of the tasks: the task-agnostic setting of the authors'
    longer paper (arXiv 2304.06896).

    Args:
        coded_input: domain, codec and channel order.
        selection: selection of a latent's channels; None for all.
        backbone: shared by all tasks.
        heads: by the name of their task.
        weighting: of the losses of the tasks.
        pixel_mean: of pixels in 0..255, in the order of INPUT.FORMAT.
        pixel_std: likewise.
        report: measurements of the encoded images in evaluation; None for estimated bits only.
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
        """Device of the parameters."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]):
        """Return losses in training, otherwise the predictions of all tasks.

        Args:
            batched_inputs: samples with
                image: 3 x H x W in 0..255, channels in the order of INPUT.FORMAT; or, as
                CodedInput.encode adds them, latent or reconstruction, and image_size: (H, W);
                in training, the targets of the heads;
                height, width: optional size of the original image, to which label maps are scaled.

        Returns:
            in training `loss_TASK`, weighted, and with a gate `loss_rate`; otherwise a dict per
            sample: the results (`attributes`, `sem_seg`) and notes of the heads, of a coded image
            `bits`, `image_size` and, with a selection, `channels`, and what `report` measures.
        """
        samples = self.select_channels(self.encode(batched_inputs))
        if self.training:
            return self.task_losses(samples) | self.gate_losses(samples)
        features, batch = self.features(samples)
        outputs = [rate_fields(sample) for sample in samples]
        if self._report is not None:
            for output, sample in zip(outputs, samples, strict=True):
                output |= self._report(self.coded_input, sample, self.device)
        for head in self.heads.values():
            for output, prediction in zip(outputs, head.predict(features, batch), strict=True):
                output |= {head.result: prediction, **head.notes}
        return outputs

    def features(self, samples: list[dict[str, Any]]) -> tuple[Features, BatchInfo]:
        """Return the backbone's features of encoded samples."""
        images = self.batch(samples)
        size = self.coded_input.padded_size(images.tensor)
        return self.backbone(images.tensor), BatchInfo(samples, images.image_sizes, size)

    def task_losses(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the weighted `loss_TASK` of encoded samples."""
        features, batch = self.features(samples)
        losses = {name: head.loss(features, batch) for name, head in self.heads.items()}
        return {f"loss_{name}": loss for name, loss in self.weighting(losses).items()}
