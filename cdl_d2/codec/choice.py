"""Which codec: plain values, as a config, a command line or a checkpoint give them."""

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
    """A codec that can be loaded; see Codec.load for what the values may be.

    Attributes:
        name: one of ARCHITECTURES (architectures.py), `tiny-<that>`, or a registered one.
        quality: 1 (smallest files) to 8; 1 to 6 for cheng2020, 1 to 4 for zhang2022, 0 to 2 for the
            built-in tiny codec. Of a variable-rate codec (`...-vbr`), the rate at which it codes.
        metric: `mse` or `ms-ssim`, what it was trained for.
        weights: a local file, in whose path `{quality}` stands for the quality; empty for
            CompressAI's zoo or the package's own; `untrained` for random ones.
        quantization: `dequantized`, as a receiver of the bitstream has it, or `rounded`, round(y).
        qualities: all that a network reads, if it reads several; `quality` is one of them.

    Raises:
        CdlError: for a quality that is not one of several, or given twice.
    """

    name: str
    quality: int
    metric: str = "mse"
    weights: str = ""
    quantization: str = "dequantized"
    qualities: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        several = tuple(self.qualities)
        object.__setattr__(self, "qualities", several)
        if several and (self.quality not in several or len({*several}) < len(several)):
            raise CdlError(
                f"quality {self.quality} is not one of the qualities {several} that the network "
                "reads, each given once: set MODEL.CODEC.QUALITY to one of MODEL.CODEC.QUALITIES"
            )

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> CodecChoice:
        """Of MODEL.CODEC of a Detectron2 config, whose keys are the attributes in capitals."""
        return cls.from_dict({key.lower(): value for key, value in node.items()})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CodecChoice:
        """Return the choice that was saved as a dict, by this version or an earlier one."""
        return cls(**current_fields(content))

    def load(self) -> Codec:
        """Return the codec, on the CPU.

        Equal choices share one, since codecs are frozen, for as long as the file of their weights
        stays the same. Take `load().on(device)` for another device, never `load().to(device)`,
        which moves it for all.

        Raises:
            CdlError, FileNotFoundError: see Codec.load.
        """
        weights = self.weights.replace(QUALITY, str(self.quality))
        file = Path(weights)
        state = file.stat() if weights and file.is_file() else None
        one = replace(self, weights=weights, qualities=())
        return _shared(one, state and (state.st_mtime_ns, state.st_size, state.st_ino))

    def load_others(self) -> tuple[Codec, ...]:
        """The codecs of the other qualities that a network reads; raises as `load`."""
        others = [each for each in self.qualities if each != self.quality]
        return tuple(replace(self, quality=each, qualities=()).load() for each in others)


@lru_cache(maxsize=16)
def _shared(choice: CodecChoice, file_state: tuple[int, ...] | None) -> Codec:
    architecture = find_architecture(choice.name)
    if architecture and architecture.is_variable_rate and choice.quality != 1:
        return _shared(replace(choice, quality=1), file_state).at_quality(choice.quality)
    return Codec.load(
        choice.name, choice.quality, choice.metric, choice.weights, choice.quantization
    )
