"""Choice of a codec in plain values, as in a config, a command line or a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cdl_d2.codec.codec import Codec
from cdl_d2.codec.latent import current_fields
from cdl_d2.codec.registry import find_architecture
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

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

    def copy_weights(self, folder: Path) -> None:
        """Copy the files of the weights, if any, to a model's folder, where `beside` finds them."""
        for quality in self.qualities or (self.quality,):
            file = Path(_at_quality(self.weights, quality))
            if self.weights and file.is_file():
                with write_atomically(_at_quality(self._copy_in(folder), quality)) as temporary:
                    shutil.copyfile(file, temporary)

    def beside(self, folder: Path) -> CodecChoice:
        """Return the choice with the weights that `copy_weights` left in a model's folder.

        They count only if the file that `weights` names does not exist: the folder was moved.
        """
        copies = self._copy_in(folder)
        if not self.weights or Path(_at_quality(self.weights, self.quality)).is_file():
            return self
        has_copy = Path(_at_quality(copies, self.quality)).is_file()
        return replace(self, weights=copies) if has_copy else self

    def _copy_in(self, folder: Path) -> str:
        """Return the path of the weights' copy in a folder, with QUALITY if the weights have it."""
        quality = f"-{QUALITY}" if QUALITY in self.weights else ""
        return f"{folder.absolute()}/codec{quality}{''.join(Path(self.weights).suffixes[-2:])}"

    def load(self) -> Codec:
        """Return the codec, on the CPU.

        Equal choices share one codec for as long as the file of their weights does not change. Use
        `load().on(device)` for another device; `load().to(device)` would move it for all.

        Raises:
            CdlError: for an unknown name, quality, metric or quantization, or unreadable weights.
            FileNotFoundError: if the weights are missing.
        """
        weights = _at_quality(self.weights, self.quality)
        file = Path(weights)
        state = file.stat() if weights and file.is_file() else None
        choice = replace(self, weights=weights, qualities=())
        return _load_shared(choice, state and (state.st_mtime_ns, state.st_size, state.st_ino))

    def load_all(self) -> tuple[Codec, ...]:
        """Return `load()`, then the codecs of a model's other qualities; raise as `load`."""
        qualities = [quality for quality in self.qualities if quality != self.quality]
        others = [replace(self, quality=quality, qualities=()) for quality in qualities]
        return (self.load(), *(choice.load() for choice in others))


def _at_quality(weights: str, quality: int) -> str:
    return weights.replace(QUALITY, str(quality))


@lru_cache(maxsize=16)
def _load_shared(choice: CodecChoice, file_state: tuple[int, ...] | None) -> Codec:
    architecture = find_architecture(choice.name)
    if architecture and architecture.is_variable_rate and choice.quality != 1:
        return _load_shared(replace(choice, quality=1), file_state).at_quality(choice.quality)
    return Codec.load(
        choice.name, choice.quality, choice.metric, choice.weights, choice.quantization
    )
