"""Weights of codecs: local files, this package's, or those of CompressAI's model zoo."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from cdl_d2.codec.registry import get_architecture
from cdl_d2.download import download_file
from cdl_d2.errors import CdlError

PACKAGED_WEIGHTS = Path(__file__).parent / "weights"
ADVICE = "train the codec, and give the path of the codec's weights"


def weights_path(name: str, quality: int, metric: str, weights: str = "") -> Path:
    """Return the path of the weights of a codec; download them if they are CompressAI's.

    Raises:
        FileNotFoundError: if the file does not exist, or cannot be downloaded.
        CdlError: if the downloaded file's hash is not the one in its name.
    """
    if weights:
        return Path(weights)
    if get_architecture(name).packaged is not None:
        path = PACKAGED_WEIGHTS / f"{name}-{quality}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing from this installation: {ADVICE}")
        return path
    return download(zoo_url(name, quality, metric))


def zoo_url(name: str, quality: int, metric: str) -> str:
    """Return the address of a codec's weights.

    Raises:
        FileNotFoundError: if there are none.
    """
    weights_url = get_architecture(name).weights_url
    url = weights_url(quality, metric) if weights_url else None
    if url is None:
        raise FileNotFoundError(
            f"there are no weights of {name} quality {quality} ({metric}): {ADVICE}"
        )
    return url


def download(url: str, folder: Path | None = None) -> Path:
    """Download `url` to `folder` (default: torch.hub's) unless it is there, and verify its hash.

    The name ends in a dash and the first eight hexadecimal digits of the file's SHA-256.

    Raises:
        FileNotFoundError: if the file cannot be downloaded.
        CdlError: if the name has no hash, or the file another one.
        OSError: if the folder cannot be written to.
    """
    path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / Path(url).name
    match = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if match is None:
        raise CdlError(f"{path.name} has no hash in its name, so it cannot be verified")
    advice = "download it by hand and give its path as the codec's weights"
    download_file(url, path, match[1], advice=advice)
    return path
