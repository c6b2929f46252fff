"""Weights in a quarter of their size: int8 with a scale for each row, in safetensors files.

A packed tensor keeps its name; its scales stand beside it under `NAME.scale`. The file's metadata
say so, and whoever reads weights of a file gets float32 again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from cdl_d2.errors import CdlError

KIND = "packed"  # key of the metadata
INT8 = "int8"
SCALE = ".scale"
SMALLEST = 1024  # elements: below that, little is saved
LARGEST_CODE = 127

State = Mapping[str, torch.Tensor]


def _none(name: str) -> bool:
    return False


def pack(state: State, keep: Callable[[str], bool] = _none) -> dict[str, torch.Tensor]:
    """A state with its large tensors as int8: round(127 w / max|w|), the maximum over a row.

    The error of a weight is at most 1/254 of its row's largest. A row is what belongs to one index
    of the first dimension, the output channel of a convolution.

    Args:
        state: tensors by name. Those of floating point with two or more dimensions and 1024 or more
            elements are packed.
        keep: whether a name's tensor stays as it is; default none does. What was fitted rather than
            trained, such as a bridge, has had no noise in its weights to get used to.

    Returns:
        the same names, and `NAME.scale`, float32, one a row, for each that is packed.

    Raises:
        CdlError: for weights that are not finite, or a name that is needed for a scale.
    """
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu()
        large = tensor.is_floating_point() and tensor.dim() > 1 and tensor.numel() >= SMALLEST
        if not large or keep(name):
            packed[name] = tensor
            continue
        if name + SCALE in state:
            raise CdlError(f"{name + SCALE} is the name of a scale of {name}: keep {name} as it is")
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1) / LARGEST_CODE
        if not scale.isfinite().all():
            raise CdlError(f"{name} has weights that are not finite: such a model is of no use")
        codes = torch.round(rows / scale.where(scale > 0, 1)[:, None])  # a row of zeros has scale 0
        codes = codes.clamp(-LARGEST_CODE, LARGEST_CODE)  # where a scale is denormal
        packed[name], packed[name + SCALE] = codes.to(torch.int8).view(tensor.shape), scale
    return packed


def unpack(state: State) -> dict[str, torch.Tensor]:
    """The state, in float32, of what pack gave.

    Raises:
        CdlError: if a tensor and its scales differ in the number of rows.
    """
    scaled = {k for k, v in state.items() if v.dtype == torch.int8 and k + SCALE in state}
    unpacked: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in scaled:
            scale = state[name + SCALE]
            if scale.shape != tensor.shape[:1]:
                raise CdlError(f"{name} has {len(tensor)} rows, and scales {tuple(scale.shape)}")
            unpacked[name] = tensor.float() * scale.view(-1, *[1] * (tensor.dim() - 1))
        elif name.removesuffix(SCALE) not in scaled:
            unpacked[name] = tensor
    return unpacked


def packed_bytes(state: State, keep: Callable[[str], bool] = _none) -> bytes:
    """The content of a safetensors file of pack(state, keep); equal states give equal bytes."""
    from safetensors.torch import save

    # Copies, since safetensors refuses tensors that share their memory.
    tensors = {name: tensor.contiguous().clone() for name, tensor in pack(state, keep).items()}
    return save(tensors, metadata={KIND: INT8})


def read_safetensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, unpacked if they are packed.

    Raises:
        CdlError: for another kind of packing; safetensors raises its own for a damaged file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        kind = (file.metadata() or {}).get(KIND)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if kind not in (None, INT8):
        raise CdlError(f"{path} is packed as {kind!r}, and only {INT8!r} is known: update cdl_d2")
    return unpack(state) if kind else state
