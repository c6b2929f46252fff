"""Symbols <-> bytes with the range coder of CompressAI, within the limits of its buffers."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from cdl_d2.codec.entropy.compiled_coder import build_compiled_coder
from cdl_d2.errors import BitstreamError, CdlError

FEW_SYMBOLS = 50_000
MAX_SYMBOL = 2**24  # the largest that float32 represents, like all integers below
MAX_SPREAD = 2**14  # of quantiles: the coder splits 2**16 parts among all symbols between them
MAX_BYTES = 8  # of a symbol: 2 for an escape, then up to 9 digits of 4 bits
MAKING_TABLES = threading.RLock()  # held while a network computes tables: threads share networks
_SHIFT = 128  # added to symbols, so that most of them fit into bytes


def update_tables(network: nn.Module) -> None:
    """Compute a network's coding tables from its weights, whatever tables it had.

    Raises:
        CdlError: if the weights give no distributions, or too wide ones.
    """
    for module in network.modules():
        if hasattr(module, "quantiles"):
            lowest, highest = module.quantiles.aminmax()
            if not highest - lowest <= MAX_SPREAD:  # also true for NaN
                raise CdlError(
                    f"quantiles from {float(lowest):g} to {float(highest):g} span more than "
                    f"{MAX_SPREAD}: the codec's weights are corrupted"
                )
    try:
        network.update(force=True)
    except ValueError as error:
        raise CdlError(f"the codec's weights give no distributions: {error}") from error


class ScaleRows:
    """Mapping from scales to rows of the scale table, each of which has a distribution.

    It gives the rows of GaussianConditional.build_indexes in one look-up: the upper 16 bits of a
    float32 name an interval, and all scales of most intervals have one row. The rows of the few
    other scales are searched.

    Args:
        model: a GaussianConditional after `update()`, on the CPU.
        gain: factor from scales to those of the table.
    """

    def __init__(self, model: nn.Module, gain: torch.Tensor | None = None):
        self._gain = gain
        self._limits = model.scale_table.numpy()[:-1].copy()  # the largest scale of each row
        self._lowest = int(np.searchsorted(self._limits, np.float32(model.scale_bound)))
        dtype = np.uint8 if len(self._limits) < 255 else np.int32
        self._unsure = np.iinfo(dtype).max
        bits = np.arange(2**16, dtype=np.uint32) << 16
        first, last = (self._search(ends.view(np.float32)) for ends in (bits, bits | 0xFFFF))
        rows = np.where(first == last, first, self._unsure)  # of each interval
        self._interval_rows = torch.from_numpy(rows.astype(dtype))

    def __call__(self, scales: torch.Tensor) -> torch.Tensor:
        """Return the rows, uint8 or int32, of scales of any shape, float32 on the CPU."""
        flat = (scales if self._gain is None else scales * self._gain).flatten().numpy()
        intervals = torch.from_numpy((flat.view(np.uint32) >> 16).view(np.int32))
        rows = self._interval_rows.index_select(0, intervals)
        values = rows.numpy()
        unsure = np.flatnonzero(values == self._unsure)
        values[unsure] = self._search(flat[unsure])
        return rows.view(scales.shape)

    def _search(self, scales: np.ndarray) -> np.ndarray:
        return np.maximum(np.searchsorted(self._limits, scales), self._lowest)


class EntropyTables:
    """Cumulative distributions of a CompressAI entropy model, converted once for their coder.

    Strings are those of CompressAI's coder, whether it or the compiled one of `compiled_coder`
    writes and reads them.

    Args:
        model: an EntropyBottleneck or GaussianConditional after `update()`.
    """

    def __init__(self, model: nn.Module):
        lengths = model.cdf_length.tolist()
        rows = model.quantized_cdf.tolist()
        cdfs = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        self._tables = cdfs, lengths, [offset + _SHIFT for offset in model.offset.tolist()]
        self._compiled = build_compiled_coder(model)

    def encode(self, symbols: torch.Tensor, indexes: torch.Tensor) -> bytes:
        """Encode symbols, each with the distribution of its index; both are integers of one shape.

        Raises:
            CdlError: for a symbol beyond 2^24 of either sign; from 2^27 on, the coder never ends.
        """
        if not symbols.numel():
            return b""  # CompressAI's coder crashes on nothing
        low, high = (int(bound) for bound in symbols.aminmax())
        if max(-low, high) > MAX_SYMBOL:
            raise CdlError(
                f"a latent from {low} to {high} cannot be coded: the weights may be corrupted"
            )
        if symbols.numel() == 1:  # the coder writes two words, its buffer has one per symbol
            symbols, indexes = symbols.flatten().repeat(2), indexes.flatten().repeat(2)
        if self._compiled:
            return self._compiled.encode(symbols, indexes)
        from compressai.ans import RansEncoder

        rows, tables = self._used_tables(indexes)
        return RansEncoder().encode_with_indexes(_to_coder(symbols + _SHIFT), rows, *tables)

    def decode(self, string: bytes, indexes: torch.Tensor) -> torch.Tensor:
        """Return the symbols, int32, of a string of `encode`; raise as `reader`."""
        return self.reader(string, indexes.numel())(indexes)

    def reader(self, string: bytes, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a function from indexes to the next symbols of a string of `count` symbols.

        CompressAI's coder reads past the end of a malicious string, so zeros are appended. In
        zeros, a symbol takes at most 4 bytes; escapes, which can take a hundred, need bits that are
        set, so that 8 bytes per symbol suffice. An escape at the end of the string can announce up
        to 30 digits per byte of it, of half a byte each.

        Raises:
            BitstreamError: if the string is longer than `count` symbols can be.
        """
        longest = MAX_BYTES * count + 64  # and the coder's state
        if len(string) > longest:
            raise BitstreamError(
                f"a string of {len(string)} bytes is longer than {count} symbols can be, {longest}"
            )
        if self._compiled:
            return self._compiled.reader(string)
        from compressai.ans import RansDecoder

        decoder = RansDecoder()
        decoder.set_stream(string.ljust(33 * len(string) + 8 * count + 4096, b"\0"))

        def next_symbols(indexes: torch.Tensor) -> torch.Tensor:
            if not indexes.numel():
                return torch.zeros(indexes.shape, dtype=torch.int32)
            rows, tables = self._used_tables(indexes)
            symbols = _from_coder(decoder.decode_stream(rows, *tables))
            return symbols.reshape(indexes.shape)

        return next_symbols

    def _used_tables(self, indexes: torch.Tensor) -> tuple[bytearray | list[int], tuple]:
        """Return indexes for the coder, and the tables, which it copies in each call."""
        rows = indexes.flatten().numpy()
        if len(rows) >= FEW_SYMBOLS:
            return _to_coder(indexes), self._tables
        is_used = np.bincount(rows, minlength=len(self._tables[0])) > 0
        used = np.flatnonzero(is_used).tolist()
        new_rows = (np.cumsum(is_used) - 1).astype(np.int32).take(rows)
        tables = tuple([table[row] for row in used] for table in self._tables)
        return _to_coder(torch.from_numpy(new_rows)), tables


def _to_coder(values: torch.Tensor) -> bytearray | list[int]:
    """Convert integers for the coder; to bytes if they fit, which is ten times as fast."""
    if values.dtype != torch.uint8:
        low, high = values.aminmax()
        if low < 0 or high > 255:
            return values.flatten().tolist()
    return bytearray(values.flatten().to(torch.uint8).numpy())


def _from_coder(values: list[int]) -> torch.Tensor:
    """Convert the coder's integers to int32 symbols; through bytes if they fit."""
    try:
        return torch.frombuffer(bytearray(values), dtype=torch.uint8).int().sub_(_SHIFT)
    except ValueError:
        return torch.frombuffer(array("i", values), dtype=torch.int32) - _SHIFT
