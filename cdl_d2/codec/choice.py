"""Choice of a codec in plain values, as in a config, a command line or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import current_fields
from cdl_d2.codec.registry import find_architecture
from cdl_d2.errors import CdlError

QUALITY = "{quality}"  # in the path of weights


@dataclass(frozen=True)
class CodecChoice:
    """Choice of a codec.

    Attributes:
        name: a registered name: CompressAI's, `zhang2022`, `tiny-<name>` or a user's.
        quality: 1 (smallest files) to 8; 1 to 6 for cheng2020, 1 to 4 for zhang2022, 0 to 2 for the
            packaged tiny codec. For a variable-rate codec (`...-vbr`), the rate to code at.
        metric: distortion metric of the weights, `mse` or `ms-ssim`.
        weights: path of a local file, in which `{quality}` is replaced by the quality; empty for
            CompressAI's zoo or packaged weights; `untrained` for random ones.
        quantization: `dequantized`, Q(y - mu) + mu as decoded from a bitstream, or `rounded`.
        qualities: all qualities of a model that reads several, `quality` among them.

    Raises:
        CdlError: if `quality` is not one of `qualities`, or one of these occurs twice.
    """

    name: str
    quality: int
    metric: str = "mse"
    weights: str = ""
    quantization: str = "dequantized"
    qualities: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        qualities = tuple(self.qualities)
        object.__setattr__(self, "qualities", qualities)
        if qualities and (self.quality not in qualities or len({*qualities}) < len(qualities)):
            raise CdlError(
                f"quality {self.quality} is not one of the qualities {qualities} of the model, or "
                "one of these occurs twice"
            )

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> CodecChoice:
        """Return the choice in a config node whose keys are the attributes in capitals."""
        return cls(**current_fields({key.lower(): value for key, value in node.items()}))

    def load(self) -> Codec:
        """Return the codec, on the CPU.

        Equal choices share one codec for as long as the file of their weights does not change. Use
        `load().on(device)` for another device; `load().to(device)` would move it for all.

        Raises:
            CdlError: for an unknown name, quality, metric or quantization, or unreadable weights.
            FileNotFoundError: if the weights are missing.
        """
        weights = self.weights.replace(QUALITY, str(self.quality))
        file = Path(weights)
        state = file.stat() if weights and file.is_file() else None
        choice = replace(self, weights=weights, qualities=())
        return _load_shared(choice, state and (state.st_mtime_ns, state.st_size, state.st_ino))

    def load_all(self) -> tuple[Codec, ...]:
        """Return `load()`, then the codecs of a model's other qualities; raise as `load`."""
        qualities = [quality for quality in self.qualities if quality != self.quality]
        others = [replace(self, quality=quality, qualities=()) for quality in qualities]
        return (self.load(), *(choice.load() for choice in others))


@lru_cache(maxsize=16)
def _load_shared(choice: CodecChoice, file_state: tuple[int, ...] | None) -> Codec:
    architecture = find_architecture(choice.name)
    if architecture and architecture.is_variable_rate and choice.quality != 1:
        return _load_shared(replace(choice, quality=1), file_state).at_quality(choice.quality)
    return Codec.load(
        choice.name, choice.quality, choice.metric, choice.weights, choice.quantization
    )
