"""Where a new network on latents starts: MODEL.LATENT_RESNET.INIT and STATISTICS."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from torch import nn

from cdl_d2.errors import with_advice
from cdl_d2.nn import LatentInput, LatentResNet, initialize_trunk
from cdl_d2.nn.selection.statistics import load_statistics


def initialize(network: nn.Module, cfg: CfgNode) -> None:
    """Start all in a network that reads latents as a config says, where it does. Whoever builds a
    network calls it, so that any trainer gets what the config asks for; weights that are loaded
    later replace both.

    Raises:
        FileNotFoundError, CdlError: see initialize_trunk and load_statistics.
    """
    logger, keys = logging.getLogger(__name__), cfg.MODEL.LATENT_RESNET
    for module in network.modules():
        if isinstance(module, LatentResNet) and keys.INIT:
            with with_advice("check MODEL.LATENT_RESNET.INIT, and NORM for FrozenBN"):
                loaded = initialize_trunk(module, keys.INIT)
            logger.info(f"{len(loaded)} entries of the latent ResNet start from {keys.INIT}")
        if isinstance(module, LatentInput) and keys.STATISTICS:
            with with_advice("compute them by `cdl latents statistics`"):
                mean, std = load_statistics(keys.STATISTICS, *module.identities)
            module.mean.copy_(mean)
            module.std.copy_(std)
            logger.info(f"latents are normalized by {keys.STATISTICS}")
