"""Symbols <-> bytes with the range coder of CompressAI, kept inside its buffer."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import torch
from torch import nn

FEW_SYMBOLS = 50_000


class EntropyTables:
    """The cumulative distributions of a CompressAI entropy model, converted once for its coder.

    Args:
        model: an EntropyBottleneck or GaussianConditional after `update()`.
    """

    def __init__(self, model: nn.Module):
        lengths = model.cdf_length.tolist()
        rows = model.quantized_cdf.tolist()
        cdfs = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        self._tables = cdfs, lengths, model.offset.tolist()

    def encode(self, symbols: torch.Tensor, indexes: torch.Tensor) -> bytes:
        """Code symbols, each with the distribution that its index names; integers of one shape."""
        from compressai.ans import RansEncoder

        if not symbols.numel():
            return b""  # CompressAI's coder crashes on nothing
        symbols, indexes = symbols.flatten().tolist(), indexes.flatten().tolist()
        return RansEncoder().encode_with_indexes(symbols, indexes, *self._tables)

    def reader(self, string: bytes, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that gives the next symbols of a string of `count` symbols for their indexes.

        The coder reads on past the end of a hostile string, so zeros follow it here. Of zeros, an
        ordinary symbol takes at most 4 bytes; escapes, which can take a hundred, need bits that
        zeros do not have, so that 8 bytes a symbol are plenty. An escape at the end of the string
        can announce up to 30 digits a byte of it, which take 4 bytes each.
        """
        from compressai.ans import RansDecoder

        decoder = RansDecoder()
        decoder.set_stream(string + bytes(128 * len(string) + 8 * count + 4096))

        def next_symbols(indexes: torch.Tensor) -> torch.Tensor:
            if not indexes.numel():
                return torch.zeros(indexes.shape, dtype=torch.int32)
            rows, tables = indexes.flatten(), self._tables
            if len(rows) < FEW_SYMBOLS:  # the coder copies all tables that it is given
                used, rows = rows.unique(return_inverse=True)
                tables = [[table[i] for i in used.tolist()] for table in tables]
            found = array("i", decoder.decode_stream(rows.tolist(), *tables))
            return torch.frombuffer(found, dtype=torch.int32).reshape(indexes.shape)

        return next_symbols
