"""The channels of a codec's latents in the order in which a task wants them, and their file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cdl_d2.codec.latent import CodecIdentity
from cdl_d2.errors import CdlError
from cdl_d2.files import write_json


@dataclass(frozen=True)
class ChannelRanking:
    """From which a fixed selection of any number of channels is taken (*Semantic Segmentation in
    Learned Compressed Domain*, section 2.2.3).

    Attributes:
        channels: different ones of 0..M - 1, the most wanted first.
        by: what was ranked, `gate`, how often a gate chooses each, or `variance` (the baseline of
            Wang et al., 2022).
        codec: whose channels.
    """

    channels: tuple[int, ...]
    by: str
    codec: CodecIdentity

    @classmethod
    def of(cls, scores: torch.Tensor, by: str, codec: CodecIdentity) -> ChannelRanking:
        """By M scores, the highest first; of equal ones the lower index first."""
        order = scores.sort(descending=True, stable=True).indices
        return cls(tuple(order.tolist()), by, codec)

    def most_wanted(self, count: int) -> list[int]:
        """The first `count` channels, sorted.

        Raises:
            CdlError: for a count that is not one of 1..M.
        """
        if not 1 <= count <= len(self.channels):
            raise CdlError(
                f"{count} channels cannot be kept: {self.codec.name} has {len(self.channels)}"
            )
        return sorted(self.channels[:count])

    def save(self, path: str | Path) -> None:
        """Write the file that `load` reads, JSON; makes its folder."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path, codec: CodecIdentity) -> ChannelRanking:
        """A file of the channels of `codec`.

        Raises:
            FileNotFoundError: if there is no such file.
            CdlError: if it is no such file, or of another codec.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no selection {path}: make it with `cdl latents select --output {path}`"
            )
        try:
            ranking = cls._parse(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CdlError(
                f"{path} is no file of `cdl latents select --output` ({error})"
            ) from error
        if ranking.codec != codec:
            raise CdlError(f"{path} ranks channels of {ranking.codec}; this model reads {codec}")
        return ranking

    @classmethod
    def _parse(cls, content: Any) -> ChannelRanking:
        channels = tuple(content["channels"])
        if sorted(channels) != list(range(len(channels))):
            raise ValueError("its channels are not all of 0..M - 1, once")
        return cls(channels, str(content["by"]), CodecIdentity.from_dict(content["codec"]))
