"""Fingerprints of source images, to detect changes since they were encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdl_d2.codec.latent import check_pixels
from cdl_d2.files import sha256_of

MAX_HASHED_IMAGES = 8  # in a quick comparison


@dataclass(frozen=True)
class ImageSource:
    """Fingerprint of an image file.

    Attributes:
        size: bytes.
        time: time of the last change, in nanoseconds.
        sha256: hash of the content.
        image_size: (H, W) in pixels; None in stores of formats 1 and 2.
    """

    size: int
    time: int
    sha256: str
    image_size: tuple[int, int] | None = None

    @classmethod
    def from_file(cls, path: Path, image_size: tuple[int, int] | None = None) -> ImageSource:
        """Return the fingerprint of a file as it is now."""
        state = path.stat()
        return cls(state.st_size, state.st_mtime_ns, sha256_of(path), image_size)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ImageSource:
        """Return a fingerprint stored as a dict; raise TypeError or ValueError if it is invalid."""
        source = cls(**content)
        if source.image_size is None:
            return source
        height, width = source.image_size
        if not type(height) is type(width) is int:
            raise ValueError(f"image_size {source.image_size!r} is not (height, width) in pixels")
        check_pixels((height, width))
        return replace(source, image_size=(height, width))


class SourceComparison:
    """Comparison of image files with their fingerprints.

    Args:
        quick: compare sizes, and hashes of only the first few files with another time of change;
            otherwise hashes of all such files.
    """

    def __init__(self, quick: bool = True):
        self._hashes_left = MAX_HASHED_IMAGES if quick else None

    def describe_change(self, source: ImageSource, path: Path) -> str:
        """Return how a file has changed, "" if it has not or does not exist."""
        try:
            state = path.stat()
        except FileNotFoundError:
            return ""
        if state.st_size != source.size:
            return f"{path} has {state.st_size} bytes, but had {source.size} when it was encoded"
        if state.st_mtime_ns == source.time or self._hashes_left == 0:
            return ""
        if self._hashes_left is not None:
            self._hashes_left -= 1
        if sha256_of(path) != source.sha256:
            return f"the content of {path} has changed since it was encoded"
        return ""
