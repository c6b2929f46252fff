"""Which codec: plain values, as a config, a command line or a checkpoint give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cdl_d2.codec.codec import Codec


@dataclass(frozen=True)
class CodecChoice:
    """A codec that can be loaded; see Codec.load for what the values may be.

    Attributes:
        name: one of ARCHITECTURES (architectures.py), or `tiny-<that>`.
        quality: 1 (smallest files) to 8; 1 to 6 for cheng2020, 1 to 4 for zhang2022, 0 to 2 for the
            built-in tiny codec.
        metric: `mse` or `ms-ssim`, what it was trained for.
        weights: a local file; empty for CompressAI's zoo or the package's own; `untrained` for
            random ones.
        meaning: `decoded` or `rounded`, see Codec.
    """

    name: str
    quality: int
    metric: str = "mse"
    weights: str = ""
    meaning: str = "decoded"

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> CodecChoice:
        """Of MODEL.CODEC of a Detectron2 config, whose keys are the attributes in capitals."""
        return cls(**{key.lower(): value for key, value in node.items()})

    def load(self) -> Codec:
        """The codec. Equal choices share one, since codecs are frozen, for as long as the file of
        their weights stays the same.

        Raises:
            CdlError, FileNotFoundError: see Codec.load.
        """
        file = Path(self.weights)
        state = file.stat() if self.weights and file.is_file() else None
        return _shared(self, state and (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=4)
def _shared(choice: CodecChoice, file_state: tuple[int, ...] | None) -> Codec:
    return Codec.load(**asdict(choice))
