"""Weights packed to a quarter of their size: int8 with a scale per row, in safetensors files.

The scales of a packed tensor are stored as `NAME.scale`. The metadata mark such a file;
read_safetensors returns float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from cdl_d2.errors import CdlError

KIND = "packed"  # key of the metadata
INT8 = "int8"
SCALE = ".scale"
MIN_ELEMENTS = 1024  # of a packed tensor: smaller ones save little
MAX_CODE = 127

State = Mapping[str, torch.Tensor]


def _keep_none(name: str) -> bool:
    return False


def pack(state: State, keep: Callable[[str], bool] = _keep_none) -> dict[str, torch.Tensor]:
    """Return a state with its large tensors as int8: round(127 w / max|w|), maximum over a row.

    A row is one index of the first dimension (output channel of a convolution). The error of a
    weight is at most 1/254 of its row's maximum.

    Args:
        state: tensors by name; floating-point tensors with at least two dimensions and 1024
            elements are packed.
        keep: predicate on names of tensors that stay as they are. Weights that were fitted in
            closed form, such as a bridge, are less robust to rounding than trained ones.

    Returns:
        the same names, and `NAME.scale` (float32, one per row) for each packed tensor.

    Raises:
        CdlError: if weights are not finite, or the name of a scale is taken.
    """
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        large = tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() >= MIN_ELEMENTS
        if not large or keep(name):
            packed[name] = tensor
            continue
        if name + SCALE in state:
            raise CdlError(f"{name + SCALE} is taken, but would be the scale of {name}")
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1) / MAX_CODE
        if not scale.isfinite().all():
            raise CdlError(f"{name} has weights that are not finite")
        codes = torch.round(rows / scale.where(scale > 0, 1)[:, None])  # a row of zeros has scale 0
        codes = codes.clamp(-MAX_CODE, MAX_CODE)  # where a scale is denormal
        packed[name], packed[name + SCALE] = codes.to(torch.int8).view(tensor.shape), scale
    return packed


def unpack(state: State) -> dict[str, torch.Tensor]:
    """Return the state that `pack` stored, in float32.

    Raises:
        CdlError: if a tensor and its scales differ in the number of rows.
    """
    scaled = {k for k, v in state.items() if v.dtype == torch.int8 and k + SCALE in state}
    unpacked: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in scaled:
            scale = state[name + SCALE]
            if scale.shape != tensor.shape[:1]:
                raise CdlError(f"{name} has {len(tensor)} rows, but {tuple(scale.shape)} scales")
            unpacked[name] = tensor.float() * scale.view(-1, *[1] * (tensor.dim() - 1))
        elif name.removesuffix(SCALE) not in scaled:
            unpacked[name] = tensor
    return unpacked


def packed_bytes(state: State, keep: Callable[[str], bool] = _keep_none) -> bytes:
    """Return the content of a safetensors file of `pack(state, keep)`, equal for equal states."""
    from safetensors.torch import save

    # Copies, since safetensors rejects tensors that share memory.
    tensors = {name: tensor.contiguous().clone() for name, tensor in pack(state, keep).items()}
    return save(tensors, metadata={KIND: INT8})


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, unpacked if they are packed.

    Raises:
        CdlError: for an unknown kind of packing.
        SafetensorError: if the file is corrupted.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kind = (file.metadata() or {}).get(KIND)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if kind not in (None, INT8):
        raise CdlError(f"{path} is packed as {kind!r}, expected {INT8!r}: update cdl_d2")
    return unpack(state) if kind else state
