"""Devices to compute on, and copies of frozen networks there."""

from __future__ import annotations

import copy
import threading
from itertools import chain
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import nn

from cdl_d2.errors import CdlError

Copies = WeakValueDictionary[torch.device, nn.Module]

# Of each network and each of its copies: all of them. Nothing here keeps a network alive.
_COPIES: WeakKeyDictionary[nn.Module, Copies] = WeakKeyDictionary()
_LOCK = threading.Lock()


def usable_device(name: str | None) -> str:
    """The name of a device; of None the GPU if there is one, else the CPU.

    Raises:
        CdlError: if there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).cpu()  # of the device "meta" nothing comes back
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CdlError(f"device {name!r} cannot be used: {reason}") from error
    return name


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given, so that a clock can be read."""
    torch.zeros(1, device=device).cpu()  # a copy to the CPU waits for what came before it


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer; the CPU if it has none."""
    tensors = chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


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
