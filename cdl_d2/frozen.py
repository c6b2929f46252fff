"""Networks that serve a model without being part of it."""

from __future__ import annotations

import torch
from torch import nn


class Frozen:
    """Holds a network outside its owner's parameters, state dict and train/eval mode.

    The codec and the teacher are held this way: no optimizer, checkpoint, DistributedDataParallel
    or parameter count sees them, and `train()` does not reach them.
    """

    def __init__(self, network: nn.Module):
        self._network = network.eval().requires_grad_(False)

    def on(self, device: torch.device | str) -> nn.Module:
        """The network, moved to `device` if it is elsewhere."""
        return self._network.to(device)
