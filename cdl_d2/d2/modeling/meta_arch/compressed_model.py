"""What the models of the compressed domain share: a domain, a codec, and a choice of channels."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.d2.modeling.selected_channels import SelectedChannels, build_selection
from cdl_d2.errors import CdlError
from cdl_d2.nn import CodecStamp, Frozen
from cdl_d2.nn.coded_input import DOMAINS, encode_item


class CompressedModel(nn.Module):
    """For a meta-architecture to inherit from, before Detectron2's; call `enter_domain` first."""

    def enter_domain(
        self,
        codec: Codec | None,
        domain: str,
        image_format: str,
        selection: SelectedChannels | None = None,
        with_scales: bool = False,
    ) -> None:
        """Say what the model looks at.

        Args:
            codec: None for domain `image`.
            domain: `latent`, `reconstruction` or `image`.
            image_format: order of an item's channels, `BGR` or `RGB`.
            selection: of a latent's channels; None for all.
            with_scales: whether the model reads the scales of the entropy model as well.

        Raises:
            ValueError: for an unknown domain, or one that does not fit the codec.
        """
        if domain not in DOMAINS:
            raise CdlError(f"INPUT.DOMAIN {domain!r} is not one of {', '.join(DOMAINS)}")
        if (codec is None) != (domain == "image"):
            raise CdlError(f"domain {domain!r} {'needs a' if codec is None else 'has no'} codec")
        self.domain, self.image_format, self.with_scales = domain, image_format, with_scales
        self._codec = None if codec is None else Frozen(codec)
        self.selection = selection
        if domain == "reconstruction":  # a network on latents has a stamp of its own
            self.codec_stamp = CodecStamp(codec.identity, required=False)

    @staticmethod
    def domain_of(cfg: CfgNode) -> dict[str, Any]:
        """`codec`, `domain` and `selection` of a config."""
        codec = None if cfg.INPUT.DOMAIN == "image" else build_codec(cfg)
        selection = build_selection(cfg, codec)
        return {"codec": codec, "domain": cfg.INPUT.DOMAIN, "selection": selection}

    def encode(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The items with all channels of their latents, or reconstructions, encoded here where
        they lack them; raises as encode_item."""
        if self._codec is None:
            return batched_inputs
        codec = self._codec.on(self.device)
        order, domain, scales = self.image_format, self.domain, self.with_scales
        return [
            encode_item(item, codec, order, domain, self.device, scales) for item in batched_inputs
        ]

    def select(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Encoded items with the channels that the model looks at, and the bits of these.

        Raises:
            ValueError: if an item lacks channels that the model looks at; see SelectedChannels.
        """
        if self.selection is not None:
            here = [item | {"latent": item["latent"].to(self.device)} for item in items]
            return [self.selection(item) for item in here]
        for mask in [item["channel_mask"] for item in items if "channel_mask" in item]:
            if not mask.all():
                raise CdlError(
                    f"a latent has {int(mask.sum())} of {len(mask)} channels, and this model looks "
                    "at all: give the second layer too, or set MODEL.SELECTION"
                )
        return items

    def selection_losses(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`loss_rate` of a gate, for selected items."""
        return {} if self.selection is None else self.selection.losses(items)
