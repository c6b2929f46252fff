"""The range coder of CompressAI, compiled by numba (the extra `fast`): same strings, less time.

It reads and writes PyTorch's buffers, where CompressAI's coder takes a Python integer per symbol.
Without numba, `build_compiled_coder` returns None. A string is read as if zeros followed it.

Coder: rANS with a state of 31 to 63 bits and words of 32 (Duda, *Asymmetric numeral systems*, arXiv
1311.2540). Probabilities are in units of 2^-16. The last entry of a distribution is the escape for
symbols beyond it: 4 bits with the number of digits (15: more follow), then digits of 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import nn

_BUCKET = 8  # bits of a probability's position that its first guess omits


class CompiledCoder:
    """Coder of symbols with the distributions of an entropy model.

    Args:
        model: an EntropyBottleneck or GaussianConditional after `update()`, on the CPU.
    """

    def __init__(self, model: nn.Module):
        lengths, offsets = model.cdf_length.int().numpy(), model.offset.int().numpy()
        cdfs = model.quantized_cdf.int().numpy().copy()
        bounds = np.arange(0, 2**16, 2**_BUCKET)
        pairs = zip(cdfs, lengths, strict=True)
        guesses = [np.searchsorted(cdf[:n], bounds, side="right") - 1 for cdf, n in pairs]
        self._tables = cdfs, lengths.copy(), offsets.copy()
        self._guesses = np.array(guesses, dtype=np.int32)

    def encode(self, symbols: torch.Tensor, indexes: torch.Tensor) -> bytes:
        """Encode symbols, at least two, each with the distribution of its index."""
        encode, _ = _functions()
        symbols, rows = symbols.int().flatten().numpy(), _to_rows(indexes)
        words = np.empty(11 * len(rows) + 2, dtype=np.uint32)  # 11: symbol, count, 9 digits
        start = encode(symbols, rows, *self._tables, words)
        return words[start:].astype("<u4").tobytes()

    def reader(self, string: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a function from indexes to the next symbols, int32, of a string."""
        _, decode = _functions()
        words = np.frombuffer(string + bytes(8 + -len(string) % 4), dtype="<u4").astype(np.uint32)
        state = np.array([int(words[0]) | int(words[1]) << 32, 2], dtype=np.uint64)

        def next_symbols(indexes: torch.Tensor) -> torch.Tensor:
            symbols = np.empty(tuple(indexes.shape), dtype=np.int32)
            decode(
                words, state, _to_rows(indexes), *self._tables, self._guesses, symbols.reshape(-1)
            )
            return torch.from_numpy(symbols)

        return next_symbols


def build_compiled_coder(model: nn.Module) -> CompiledCoder | None:
    """Return the compiled coder of an entropy model, or None without numba."""
    return CompiledCoder(model) if _functions() else None


def _to_rows(indexes: torch.Tensor) -> np.ndarray:
    return indexes.flatten().numpy().astype(np.uint16)


@cache
def _functions() -> tuple[Callable, Callable] | None:
    """Return the compiled encoder and decoder, or None without numba."""
    try:
        from numba import njit
    except ImportError:
        return None

    def compiled(function: Callable) -> Callable:
        try:
            return njit(function, cache=True, nogil=True)
        except RuntimeError:  # no folder for compiled functions can be written
            return njit(function, nogil=True)

    return compiled(_encode), compiled(_decode)


def _encode(symbols, rows, cdfs, lengths, offsets, words):
    """Write words from the end of a buffer, last symbol first; return the index of the first."""
    at, state = len(words), np.uint64(2**31)
    entries = np.empty((11, 2), dtype=np.uint64)  # start and frequency of a symbol and its escape
    for i in range(len(rows) - 1, -1, -1):
        row = rows[i]
        last = lengths[row] - 2
        value = np.int64(symbols[i]) - offsets[row]
        escape = -1
        if value < 0:
            escape, value = -2 * value - 1, last
        elif value >= last:
            escape, value = 2 * (value - last), last
        entries[0, 0] = cdfs[row, value]
        entries[0, 1] = cdfs[row, value + 1] - cdfs[row, value]
        count = 1
        if escape >= 0:
            while escape >> (4 * (count - 1)):
                entries[count + 1, 0] = (escape >> (4 * (count - 1))) & 15
                count += 1
            entries[1, 0] = count - 1  # digits, fewer than 15
            count += 1
        for k in range(count - 1, -1, -1):
            frequency = np.uint64(2**12) if k else entries[k, 1]
            if state >= frequency << np.uint64(47):
                at -= 1
                words[at] = np.uint32(state & np.uint64(0xFFFFFFFF))
                state >>= np.uint64(32)
            if k:
                state = (state << np.uint64(4)) | entries[k, 0]
            else:
                quotient = state // frequency
                remainder = state - quotient * frequency
                state = (quotient << np.uint64(16)) + remainder + entries[k, 0]
    words[at - 2] = np.uint32(state & np.uint64(0xFFFFFFFF))
    words[at - 1] = np.uint32(state >> np.uint64(32))
    return at - 2


def _decode(words, state_and_position, rows, cdfs, lengths, offsets, guesses, symbols):
    """Read the next symbols; the state of the coder and the next word are kept in an array."""
    state, at = state_and_position[0], np.int64(state_and_position[1])
    for i in range(len(rows)):
        row = rows[i]
        slot = np.int64(state & np.uint64(0xFFFF))
        value = np.int64(guesses[row, slot >> _BUCKET])
        while cdfs[row, value + 1] <= slot:
            value += 1
        start = np.int64(cdfs[row, value])
        frequency = np.uint64(cdfs[row, value + 1] - start)
        state = frequency * (state >> np.uint64(16)) + np.uint64(slot - start)
        remaining = 0  # digits of an escape
        reads_count = value == lengths[row] - 2
        escape, shift = np.int64(0), 0
        while True:
            if state < np.uint64(2**31):
                word = words[at] if at < len(words) else np.uint32(0)
                state = (state << np.uint64(32)) | np.uint64(word)
                at += 1
            if not reads_count and remaining == 0:
                break
            digit = np.int64(state & np.uint64(15))
            state >>= np.uint64(4)
            if reads_count:
                remaining += digit
                reads_count = digit == 15
            else:
                remaining -= 1
                if shift < 32:
                    escape |= digit << shift
                shift += 4
        if value == lengths[row] - 2:
            value = -(escape >> 1) - 1 if escape & 1 else value + (escape >> 1)
        symbols[i] = value + offsets[row]
    state_and_position[0], state_and_position[1] = state, np.uint64(at)
