"""Copies of frozen networks on other devices: one per network and device, shared by its users."""

from __future__ import annotations

import copy
import threading
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import nn

Copies = WeakValueDictionary[torch.device, nn.Module]

# Of each network and each of its copies: all of them. Nothing here keeps a network alive.
_COPIES: WeakKeyDictionary[nn.Module, Copies] = WeakKeyDictionary()
_LOCK = threading.Lock()


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's parameters."""
    return next(network.parameters()).device


def network_on(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Return a network itself if it is on a device, else its copy there.

    Equal calls give one copy for as long as somebody holds it. No network is moved, since others
    may be computing with it.
    """
    device = torch.empty(0, device=device).device  # with an index: cuda is cuda:0
    with _LOCK:
        copies = _COPIES.setdefault(network, WeakValueDictionary())
        copies[device_of(network)] = network
        other = copies.get(device)
        if other is None or device_of(other) != device:  # its owner moved it since
            copies[device] = other = copy.deepcopy(network).to(device)
            _COPIES[other] = copies
        return other
