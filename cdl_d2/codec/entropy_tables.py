"""Symbols <-> bytes with the range coder of CompressAI, kept inside its buffer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


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

        symbols, indexes = symbols.flatten().tolist(), indexes.flatten().tolist()
        return RansEncoder().encode_with_indexes(symbols, indexes, *self._tables)

    def reader(self, string: bytes, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that gives the next symbols of a string of `count` symbols for their indexes.

        The coder reads on past the end of a hostile string, so zeros follow it here. Of zeros it
        takes 8 words a symbol at the very most, as an escape ends with the first zero, and a word
        for each of the 30 bits a byte that escapes at the end of the string can announce.
        """
        from compressai.ans import RansDecoder

        decoder = RansDecoder()
        decoder.set_stream(string + bytes(128 * len(string) + 32 * count + 64))

        def next_symbols(indexes: torch.Tensor) -> torch.Tensor:
            used, rows = indexes.flatten().unique(return_inverse=True)
            some = [[table[i] for i in used.tolist()] for table in self._tables]
            found = decoder.decode_stream(rows.tolist(), *some)
            return torch.tensor(found, dtype=torch.int32).reshape(indexes.shape)

        return next_symbols
