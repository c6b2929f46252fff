"""Which device to compute on."""

from __future__ import annotations

import torch

from cdl_d2.errors import CdlError


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
