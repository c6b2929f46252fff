"""Channels of a codec's latents in order of importance for a task, and their file."""

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
    """Channels in order of importance; the first k form a static channel selection.

    *Semantic Segmentation in Learned Compressed Domain*, section 2.2.3.

    Attributes:
        channels: permutation of 0..M - 1, the most important first.
        by: ranking criterion: `gate`, how often a gate selects a channel, or `variance` (the
            baseline of Wang et al., 2022).
        codec: identity of the codec.
    """

    channels: tuple[int, ...]
    by: str
    codec: CodecIdentity

    @classmethod
    def from_scores(cls, scores: torch.Tensor, by: str, codec: CodecIdentity) -> ChannelRanking:
        """Rank channels by M scores, the highest first; of equal scores the lower index first."""
        order = scores.sort(descending=True, stable=True).indices
        return cls(tuple(order.tolist()), by, codec)

    def top_channels(self, count: int) -> list[int]:
        """Return the `count` most important channels, sorted by index.

        Raises:
            CdlError: for a count outside of 1..M.
        """
        if not 1 <= count <= len(self.channels):
            raise CdlError(
                f"{count} channels cannot be kept: {self.codec.name} has {len(self.channels)}"
            )
        return sorted(self.channels[:count])

    def save(self, path: str | Path) -> None:
        """Write the ranking in JSON, and create the folder if needed."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path, codec: CodecIdentity) -> ChannelRanking:
        """Read a ranking of the channels of a codec.

        Raises:
            FileNotFoundError: if there is no such file.
            CdlError: if it is no ranking, or of another codec.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no channel ranking {path}")
        try:
            ranking = cls._parse(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CdlError(f"{path} is no channel ranking ({error})") from error
        if ranking.codec != codec:
            raise CdlError(f"{path} ranks channels of {ranking.codec}; this model reads {codec}")
        return ranking

    @classmethod
    def _parse(cls, content: Any) -> ChannelRanking:
        channels = tuple(content["channels"])
        if sorted(channels) != list(range(len(channels))):
            raise ValueError("its channels are not all of 0..M - 1, once")
        return cls(channels, str(content["by"]), CodecIdentity.from_dict(content["codec"]))
