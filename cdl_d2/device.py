"""Devices, and copies of frozen networks on them."""

from __future__ import annotations

import copy
import threading
from itertools import chain
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import nn

from cdl_d2.errors import CdlError

Copies = WeakValueDictionary[torch.device, nn.Module]

# All copies of a network, by the network and by each copy. Weak: keeps no network alive.
_COPIES: WeakKeyDictionary[nn.Module, Copies] = WeakKeyDictionary()
_LOCK = threading.Lock()

GPU_TYPES = "cuda", "mps"  # of devices


def usable_device(name: str | None) -> str:
    """Return the name of a device after trying it; for None the GPU if there is one, else the CPU.

    Raises:
        CdlError: if the device cannot be used.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name).cpu()  # the device "meta" returns nothing
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CdlError(f"device {name!r} cannot be used: {reason}") from error
    return name


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work, for timing."""
    torch.zeros(1, device=device).cpu()  # a copy to the CPU waits for earlier work


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer; the CPU if it has none."""
    tensors = chain(network.parameters(), network.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def channels_last(batch: torch.Tensor) -> torch.Tensor:
    """Return a batch, N x C x H x W, in channels-last format unless it is on a GPU.

    Layers compute in their input's format. Transposed convolutions, above all, are several times
    faster in this one on CPUs.
    """
    if batch.device.type in GPU_TYPES:
        return batch
    return batch.contiguous(memory_format=torch.channels_last)


def use_channels_last(network: nn.Module) -> nn.Module:
    """Store the weights of convolutions channels-last unless a network is on a GPU; return it.

    Convolutions with such weights compute in this format, in which PyTorch is faster on CPUs: a
    ResNet-50 with a feature pyramid takes about two thirds of the time. Of a network with a
    `backbone` only that is changed: losses of Detectron2's heads need the usual format.
    """
    if device_of(network).type not in GPU_TYPES:
        for module in getattr(network, "backbone", network).modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                weight = module.weight.detach()
                module.weight.data = weight.contiguous(memory_format=torch.channels_last)
    return network


def network_on(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Return a network itself if it is on a device, else a copy on that device.

    Equal calls return the same copy while it is referenced. The network is never moved: other
    threads may be using it.
    """
    device = torch.empty(0, device=device).device  # with an index: cuda is cuda:0
    with _LOCK:
        copies = _COPIES.setdefault(network, WeakValueDictionary())
        copies[device_of(network)] = network
        on_device = copies.get(device)
        if on_device is None or device_of(on_device) != device:  # its owner has moved it
            copies[device] = on_device = copy.deepcopy(network).to(device)
            _COPIES[on_device] = copies
        return on_device
