"""What the models of the compressed domain share: a coded input, and a choice of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.bridge_fit import fit_bridge
from cdl_d2.nn.bridge.latent_translation import translation_for
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.selection.channel_selection import FixedChannels


class CompressedModel(nn.Module):
    """For a meta-architecture to inherit from, before Detectron2's; it calls `set_input` when its
    networks are there."""

    def set_input(self, coded_input: CodedInput, selection: SelectedChannels | None = None) -> None:
        """Say what the model looks at. A linear bridge stands for one codec: the latents of others
        are brought to the quantization of that one's.

        Args:
            coded_input: domain, codec, order of channels.
            selection: of a latent's channels; None for all.
        """
        self.coded_input, self.selection = coded_input, selection
        coded_input.stamp(self)
        self.translation = translation_for(self, coded_input)

    @staticmethod
    def input_from_config(cfg: CfgNode) -> dict[str, Any]:
        """`coded_input` and `selection` of a config."""
        coded_input = build_coded_input(cfg)
        return {"coded_input": coded_input, "selection": build_selection(cfg, coded_input.codec)}

    @staticmethod
    def reads_scales(cfg: CfgNode) -> bool:
        """Whether the model of a config reads the scales of the entropy model beside latents."""
        return False

    def encode(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Encode the items that lack their latent or reconstruction, with all channels.

        Bits are estimated in evaluation, and in training only for a gate that learns from them. In
        training, each image is encoded at a quality drawn at random from those that the model
        reads.

        Raises:
            CdlError: for an image that cannot be encoded, or an input of another codec; in training
                for an item that a store or a mapper should have encoded.
        """
        with_bits = not self.training or (self.selection is not None and self.selection.needs_bits)
        if self.training:
            self._check_source(batched_inputs)
        return [
            self.coded_input.encode(item, self.device, with_bits, self.training)
            for item in batched_inputs
        ]

    def _check_source(self, items: list[dict[str, Any]]) -> None:
        """Raise CdlError if items lack what a store or a mapper should have produced: encoding here
        would silently replace stored latents by those of augmented images."""
        coded_input = self.coded_input
        if coded_input.codec is None or coded_input.source == "model":
            return
        for item in items:
            if coded_input.domain not in item:
                raise CdlError(
                    f"INPUT.LATENT_SOURCE is {coded_input.source!r}, but a batch item has no "
                    f"{coded_input.domain!r}, only {', '.join(sorted(item))}: use the mapper of "
                    "cdl_d2.d2.build_mapper(cfg, True), as cdl_d2.d2.Trainer does, or set "
                    "INPUT.LATENT_SOURCE model"
                )

    def select(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Encoded items with the channels that the model looks at, and the bits of these; of one
        quantization, see `set_input`.

        Raises:
            CdlError: if an item lacks channels that the model looks at; see SelectedChannels.
        """
        if self.selection is not None:
            here = [item | {"latent": item["latent"].to(self.device)} for item in items]
            return self._translated([self.selection(item) for item in here])
        for mask in [item["channel_mask"] for item in items if "channel_mask" in item]:
            if not mask.all():
                raise CdlError(
                    f"a latent has {int(mask.sum())} of {len(mask)} channels, and this model looks "
                    "at all: give the enhancement layer too, or set MODEL.SELECTION"
                )
        return self._translated(items)

    def _translated(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return items if self.translation is None else [*map(self.translation.of_item, items)]

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """What a pixel network reads of an item's image, 3 x H x W in 0..255."""
        return (pixels.to(self.device) - self.pixel_mean) / self.pixel_std

    def batch(self, items: list[dict[str, Any]]) -> ImageList:
        """What a `backbone` reads of encoded items, padded; sizes always in pixels."""
        multiple = max(self.backbone.size_divisibility, STRIDE)
        return ImageList(*self.coded_input.batch(items, self.device, multiple, self.normalized))

    def fit_bridge(self, items: Iterable[dict[str, Any]], count: int) -> float | None:
        """Fit a linear bridge that is not fitted yet to `count` items with `image`, see
        cdl_d2.nn.fit_bridge. What a gate will choose is not known yet: it gets all channels."""

        def encode(item: dict[str, Any]) -> dict[str, Any]:
            items = self.encode([item])
            fixed = isinstance(getattr(self.selection, "chooser", None), FixedChannels)
            return (self.select(items) if fixed else self._translated(items))[0]

        by_all = partial(self.coded_input.encode_by_all, device=self.device)
        return fit_bridge(self, items, count, encode, self.normalized, by_all)

    def selection_losses(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`loss_rate` of a gate, for selected items."""
        return {} if self.selection is None else self.selection.losses(items)

    def build_optimizer(
        self, cfg: CfgNode, default: Callable[[], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """Detectron2's own, with a learning rate of its own for a gate."""
        optimizer = default()
        gate = [] if self.selection is None else list(self.selection.parameters())
        if gate:
            moved = {id(parameter) for parameter in gate}
            for group in optimizer.param_groups:
                group["params"] = [each for each in group["params"] if id(each) not in moved]
            rate = cfg.SOLVER.BASE_LR * cfg.MODEL.SELECTION.LR_FACTOR
            optimizer.add_param_group({"params": gate, "lr": rate})
        return optimizer

    @property
    def task_networks(self) -> Sequence[nn.Module]:
        """What does the task: everything but a codec that learns with it."""
        return [self]

    def parameter_counts(self) -> dict[str, int]:
        """How many `parameters` the networks of the task have, and how many the whole `codec`, 0
        for a model of original images."""
        codec = self.coded_input.codec
        networks = {"parameters": self.task_networks, "codec": [codec.network] if codec else []}
        return {
            name: sum(each.numel() for module in modules for each in module.parameters())
            for name, modules in networks.items()
        }

    def export(self, folder: Path) -> None:
        """Write what a training makes beside the checkpoint: nothing, for most models."""
