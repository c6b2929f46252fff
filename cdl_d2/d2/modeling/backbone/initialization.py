"""Initialization of latent models: MODEL.LATENT_RESNET.INIT and STATISTICS."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from torch import nn

from cdl_d2.errors import with_advice
from cdl_d2.nn import LatentInput, LatentResNet, initialize_trunk
from cdl_d2.nn.selection.statistics import load_statistics


def initialize(network: nn.Module, cfg: CfgNode) -> None:
    """Initialize latent ResNets from INIT, and the normalization of latents from STATISTICS.

    Functions that build a network call it, so that every trainer gets the initialization of the
    config. Weights that are loaded later replace it.

    Raises:
        FileNotFoundError, CdlError: if a file does not exist, or does not fit the network.
    """
    logger, keys = logging.getLogger(__name__), cfg.MODEL.LATENT_RESNET
    for module in network.modules():
        if isinstance(module, LatentResNet) and keys.INIT:
            with with_advice("check MODEL.LATENT_RESNET.INIT, and NORM for FrozenBN"):
                loaded = initialize_trunk(module, keys.INIT)
            logger.info(
                f"{len(loaded)} tensors of the latent ResNet are initialized from {keys.INIT}"
            )
        if isinstance(module, LatentInput) and keys.STATISTICS:
            with with_advice("compute them by `cdl latents statistics`"):
                mean, std = load_statistics(keys.STATISTICS, *module.identities)
            module.mean.copy_(mean)
            module.std.copy_(std)
            logger.info(f"latents are normalized by {keys.STATISTICS}")
