"""What an image file was when it was encoded, and whether it still is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdl_d2.codec.latent import check_pixels
from cdl_d2.files import sha256_of

HASHED = 8  # images of another time whose content a quick comparison looks at


@dataclass(frozen=True)
class ImageSource:
    """An image file.

    Attributes:
        size: bytes.
        time: of its last change, in nanoseconds.
        sha256: of its content.
        image_size: (H, W) in pixels; None in stores of formats 1 and 2.
    """

    size: int
    time: int
    sha256: str
    image_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, path: Path, image_size: tuple[int, int] | None = None) -> ImageSource:
        """Of a file as it is now."""
        state = path.stat()
        return cls(state.st_size, state.st_mtime_ns, sha256_of(path), image_size)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ImageSource:
        """Return what was written as a dict; raises TypeError or ValueError for anything else."""
        source = cls(**content)
        if source.image_size is None:
            return source
        height, width = source.image_size
        if not type(height) is type(width) is int:
            raise ValueError(f"image_size {source.image_size!r} is not (height, width) in pixels")
        check_pixels((height, width))
        return replace(source, image_size=(height, width))


class SourceComparison:
    """Compares image files with what they were.

    Args:
        quick: compare sizes, and the content of the first few whose time is another; else the
            content of all whose time is.
    """

    def __init__(self, quick: bool = True):
        self._left = HASHED if quick else None

    def __call__(self, source: ImageSource, path: Path) -> str:
        """How the file differs; empty if it does not, or there is no such file."""
        try:
            state = path.stat()
        except FileNotFoundError:
            return ""
        if state.st_size != source.size:
            return f"{path} has {state.st_size} bytes, and had {source.size} when it was encoded"
        if state.st_mtime_ns == source.time or self._left == 0:
            return ""
        if self._left is not None:
            self._left -= 1
        if sha256_of(path) != source.sha256:
            return f"{path} has another content than when it was encoded"
        return ""

    def changed(self, sources: Mapping[str, ImageSource], folder: Path) -> dict[str, str]:
        """The images that differ, and how."""
        found = {image: self(source, folder / image) for image, source in sources.items()}
        return {image: how for image, how in found.items() if how}
