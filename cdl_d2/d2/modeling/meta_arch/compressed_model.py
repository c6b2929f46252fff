"""Base of all models on codec output: their input, and their selection of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import ImageList
from torch import nn

from cdl_d2.codec import STRIDE
from cdl_d2.d2.model_input import build_coded_input
from cdl_d2.d2.modeling.selected_channels import SelectedChannels, build_selection
from cdl_d2.errors import CdlError, with_advice
from cdl_d2.nn.bridge.bridge_fit import fit_bridge
from cdl_d2.nn.bridge.input_adapter import announce_images, set_margin
from cdl_d2.nn.bridge.latent_translation import build_translation
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.selection.channel_selection import FixedChannels


class CompressedModel(nn.Module):
    """Mixin for Detectron2 meta-architectures that take codec output instead of pixels.

    List it before Detectron2's class, and call `set_input` at the end of `__init__`. Samples pass
    through `encode`, `select_channels` and `batch`. The codec is frozen and outside the module
    tree: it appears neither in `state_dict` nor in `parameters`.
    """

    def set_input(self, coded_input: CodedInput, selection: SelectedChannels | None = None) -> None:
        """Set the input and the channel selection, and build what depends on them.

        With several codecs before a linear bridge, this builds a LatentTranslation into the latent
        space of the highest quality.

        Args:
            coded_input: domain, codec and channel order.
            selection: selection of a latent's channels; None for all.
        """
        self.coded_input, self.selection = coded_input, selection
        coded_input.stamp(self)
        with with_advice("set MODEL.BRIDGE.MARGIN False"):
            set_margin(self, coded_input.margin)
        self.translation = build_translation(self, coded_input) if coded_input.others else None

    @staticmethod
    def input_from_config(cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments `coded_input` and `selection` of `__init__` for a config."""
        coded_input = build_coded_input(cfg)
        return {"coded_input": coded_input, "selection": build_selection(cfg, coded_input.codec)}

    @staticmethod
    def reads_scales(cfg: CfgNode) -> bool:
        """Return True if a config's model reads the predicted standard deviations (scales)."""
        return False

    def encode(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Encode the samples that lack their latent or reconstruction, with all channels.

        Bits are estimated in evaluation, and in training only for a gate that learns from them. In
        training, the quality of each image is sampled from those that the model reads.

        Raises:
            CdlError: for an image that cannot be encoded, or an input of another codec; in training
                for a sample that a store or a mapper should have encoded.
        """
        with_bits = not self.training or (self.selection is not None and self.selection.needs_bits)
        if self.training:
            self._check_source(batched_inputs)
        return [
            self.coded_input.encode(sample, self.device, with_bits, self.training)
            for sample in batched_inputs
        ]

    def _check_source(self, samples: list[dict[str, Any]]) -> None:
        """Raise CdlError if samples lack what a store or a mapper should have encoded.

        Encoding them here would silently replace stored latents by those of augmented images.
        """
        coded_input = self.coded_input
        if coded_input.codec is None or coded_input.source == "model":
            return
        for sample in samples:
            if coded_input.domain not in sample:
                raise CdlError(
                    f"INPUT.LATENT_SOURCE is {coded_input.source!r}, but a sample has no "
                    f"{coded_input.domain!r}, only {', '.join(sorted(sample))}: use the mapper of "
                    "cdl_d2.d2.build_mapper(cfg, True), as cdl_d2.d2.Trainer does, or set "
                    "INPUT.LATENT_SOURCE model"
                )

    def select_channels(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Apply the channel selection, and update bits; translate latents for a linear bridge.

        Raises:
            CdlError: if a sample lacks channels that the model reads.
        """
        if self.selection is not None:
            samples = [sample | {"latent": sample["latent"].to(self.device)} for sample in samples]
            return self._translate([self.selection(sample) for sample in samples])
        for mask in [sample["channel_mask"] for sample in samples if "channel_mask" in sample]:
            if not mask.all():
                raise CdlError(
                    f"a latent has {int(mask.sum())} of {len(mask)} channels, expected all: give "
                    "the enhancement layer too, or set MODEL.SELECTION"
                )
        return self._translate(samples)

    def _translate(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.translation is None:
            return samples
        return [self.translation.translate_sample(sample) for sample in samples]

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize a sample's image, 3 x H x W in 0..255, as the RGB model's input."""
        return (pixels.to(self.device) - self.pixel_mean) / self.pixel_std

    def batch(self, samples: list[dict[str, Any]]) -> ImageList:
        """Stack encoded samples into one zero-padded tensor by CodedInput.batch.

        `image_sizes` are in pixels in every domain.
        """
        multiple = max(self.backbone.size_divisibility, STRIDE)
        batch = ImageList(*self.coded_input.batch(samples, self.device, multiple, self.normalized))
        if self.coded_input.margin:
            latents = [sample["latent"] for sample in samples]
            announce_images(self, latents, batch.image_sizes)
        return batch

    def fit_bridge(
        self,
        samples: Iterable[dict[str, Any]],
        count: int,
        run_stage: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> float | None:
        """Fit a linear bridge, unless there is none or a fitted one, to `count` samples.

        All channels are used if a gate selects them: it is not trained yet.

        Args:
            samples: each with `image`.
            count: number of samples to use.
            run_stage: function from normalized images, 1 x 3 x H x W, to the RGB model's features
                that a Bridge replaces, to fit this one.

        Returns:
            the explained share of the variance of what the bridge replaces, or None.
        """

        def encode(sample: dict[str, Any]) -> dict[str, Any]:
            samples = self.encode([sample])
            is_static = isinstance(getattr(self.selection, "chooser", None), FixedChannels)
            return (self.select_channels(samples) if is_static else self._translate(samples))[0]

        by_all = partial(self.coded_input.encode_by_all, device=self.device)
        with with_advice("set MODEL.BRIDGE.FIT_IMAGES") if count < 1 else nullcontext():
            return fit_bridge(self, samples, count, encode, self.normalized, by_all, run_stage)

    def gate_losses(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a gate's `loss_rate` for selected samples; {} without a gate."""
        return {} if self.selection is None else self.selection.losses(samples)

    def build_optimizer(
        self, cfg: CfgNode, default: Callable[[], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """Return Detectron2's optimizer, with a separate learning rate for a gate."""
        optimizer = default()
        gate = [] if self.selection is None else list(self.selection.parameters())
        if gate:
            gate_ids = {id(parameter) for parameter in gate}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in gate_ids]
            rate = cfg.SOLVER.BASE_LR * cfg.MODEL.SELECTION.LR_FACTOR
            optimizer.add_param_group({"params": gate, "lr": rate})
        return optimizer

    @property
    def task_modules(self) -> Sequence[nn.Module]:
        """Modules that perform the task: everything except a codec trained jointly."""
        return [self]

    def parameter_counts(self) -> dict[str, int]:
        """Return the numbers of `parameters` of the task's networks, and of the `codec`, if any."""
        codec = self.coded_input.codec
        networks = {"parameters": self.task_modules, "codec": [codec.network] if codec else []}
        return {
            name: sum(p.numel() for module in modules for p in module.parameters())
            for name, modules in networks.items()
        }

    def save_artifacts(self, folder: Path) -> None:
        """Write files that belong beside the checkpoint, such as a jointly trained codec."""
