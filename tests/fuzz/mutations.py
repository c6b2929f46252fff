"""Ways to corrupt bytes, and trees of plain values and tensors."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import torch

TIMES = (1, 1, 1, 2, 4)  # numbers of changes
EDGE = 4096  # bytes at either end, where formats have headers
TOKENS = (
    *(b"\xff" * 40, b"\0" * 40, b"[" * 3000, b"{" * 300, b'"', b"\n", b"\t", b"  ", b"\\u0000"),
    *(b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"9" * 5000, b"null", b"true", b"%d" % 2**64),
    *(b"../", b"/dev/zero", b"&a ", b"*a", b"<<: ", b"? ", b": ", b"- ", b"!!python/name:a.b "),
    *(b"!!binary ", b"!!set ", b"!!timestamp ", b"2001-99-99", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
)
NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
ODD = (
    *(None, True, False, 0, 1, -1, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400, 0.5, -1.5, 1e308),
    *(math.nan, math.inf, -math.inf, "", "a", "1", "-1", "1e9", "\0", "\ud800", "a" * 5000),
    *("../a", "/dev/zero", "https://127.0.0.1:9/a", "(1, 2)", "[" * 3000, [], {}, [[]], [0]),
    *([None], {"a": 1}, {1: 2}, [1] * 1000, ["a", "b"], [[0, 0, 9, 9]], {"size": [9, 9]}),
)


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """Return the content with a few bytes changed, removed, inserted or repeated."""
    damaged = bytearray(content)
    for _ in range(rng.choice(TIMES)):
        position = _choose_position(rng, len(damaged))
        way = rng.choice(["bit", "bytes", "number", "cut", "insert", "token", "repeat", "truncate"])
        if way == "bit" and damaged:
            damaged[position] ^= 1 << rng.randrange(8)
        elif way == "cut":
            del damaged[position : position + rng.randint(1, 40)]
        elif way == "truncate" and rng.random() < 0.3:
            del damaged[position:]
        elif way == "repeat":
            damaged[position:position] = damaged[position : position + 20] * rng.randint(1, 8)
        elif way == "number":
            number = struct.pack(rng.choice("<>") + "Q", rng.choice(NUMBERS))
            size = rng.choice([2, 4, 8])
            damaged[position : position + size] = number[:size]
        else:
            new = rng.choice(TOKENS) if way == "token" else rng.randbytes(rng.randint(1, 24))
            damaged[position : position + (len(new) if way == "bytes" else 0)] = new
    return bytes(damaged)


def _choose_position(rng: Random, size: int) -> int:
    position = rng.randrange(max(size, 1))
    if size > 2 * EDGE and rng.random() < 0.7:
        return position % EDGE if rng.random() < 0.5 else size - 1 - position % EDGE
    return position


def mutate_values(rng: Random, tree: Any) -> Any:
    """Return a copy of dicts and lists with a few values changed, removed, doubled or renamed."""
    root = [copy.deepcopy(tree)]
    for _ in range(rng.choice(TIMES)):
        holder, key = rng.choice(_list_places(root))
        way = rng.choice(["odd", "odd", "near", "near", "remove", "double", "rename", "elsewhere"])
        value = holder[key]
        if way == "near":
            holder[key] = copy.deepcopy(_near(rng, value))
        elif way == "remove" and holder is not root:
            del holder[key]
        elif way == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(value))
        elif way == "rename" and isinstance(holder, dict):
            holder[rng.choice(["", "a", "id", 0, None, f"{key}.scale"])] = holder.pop(key)
        elif way == "elsewhere":
            source, source_key = rng.choice(_list_places(root))
            holder[key] = copy.deepcopy(source[source_key])
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    return root[0]


def _list_places(root: list) -> list[tuple[Any, Any]]:
    """Return container and key of each value in a tree."""
    places: list[tuple[Any, Any]] = []
    to_do = [root]
    while to_do:
        holder = to_do.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                to_do.append(holder[key])
    return places


def _near(rng: Random, value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, -value, value * 2, value * 10**9])
    if isinstance(value, float):
        return rng.choice([-value, value * 1e9, value + 0.5, value * 1e-300])
    if isinstance(value, str):
        return mutate_bytes(rng, value.encode(errors="replace")).decode("latin1")
    if isinstance(value, torch.Tensor):
        return rng.choice(TENSORS)(rng, value.detach().clone())
    if isinstance(value, list):
        return value[: rng.randint(0, len(value))] + value[:2]
    return rng.choice(ODD)


def _element(rng: Random, tensor: torch.Tensor, numbers: tuple[float, ...]) -> torch.Tensor:
    flat = tensor.reshape(-1)
    if len(flat) and flat.is_floating_point():
        flat[rng.randrange(len(flat))] = rng.choice(numbers)
    return tensor


# Changes of tensors that every format supports.
DENSE: tuple[Callable[[Random, torch.Tensor], torch.Tensor], ...] = (
    lambda rng, t: _element(rng, t, (float("nan"), float("inf"))),
    lambda rng, t: _element(rng, t, (1e30, -1e30, 3e38, 1e9, 1e-40, 0.0)),
    lambda rng, t: t * 10.0 ** rng.randint(-40, 38) if t.is_floating_point() else t,
    lambda rng, t: torch.full_like(t, rng.choice([0, 1, -1, 100])),
    lambda rng, t: t.roll(1),
    lambda rng, t: t.reshape(-1),
    lambda rng, t: t.reshape(-1)[:1].reshape(()) if t.numel() else t,
    lambda rng, t: t[:0] if t.ndim else t,
    lambda rng, t: t[: rng.randint(0, len(t))] if t.ndim else t,
    lambda rng, t: torch.cat([t, t]) if t.ndim else t,
    lambda rng, t: t[None].expand(rng.randint(1, 4), *t.shape).contiguous(),
    lambda rng, t: torch.zeros(rng.choice([3, 300_000, 2**40]), 0, *t.shape[2:]),
    lambda rng, t: t.to(rng.choice([torch.float64, torch.float16, torch.bfloat16])),
    lambda rng, t: t.to(rng.choice([torch.int8, torch.int64, torch.bool, torch.uint8])),
)
# Changes that only torch.save supports.
TENSORS = (
    *DENSE,
    lambda rng, t: t.to_sparse(),
    lambda rng, t: t.to(torch.complex64),
    lambda rng, t: torch.empty(t.shape, device="meta"),
    lambda rng, t: torch.nn.Parameter(t.float()),
    lambda rng, t: t.reshape(-1)[:1].expand(rng.choice([7, 2**20, 2**50])),
    lambda rng, t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda rng, t: torch.nested.nested_tensor([t.float().reshape(-1)]),
)
