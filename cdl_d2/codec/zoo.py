"""Where a codec's weights come from: a local file, this package, or CompressAI's model zoo."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from cdl_d2.codec.registry import get_architecture
from cdl_d2.download import LARGEST, TIMEOUT, Download
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of

PACKAGED_WEIGHTS = Path(__file__).parent / "weights"
WEIGHTS_OPTIONS = "--codec-weights (in a config: MODEL.CODEC.WEIGHTS)"
TRAIN_ONE = f"train one with `cdl codec train`, and give it as {WEIGHTS_OPTIONS}"


def weights_path(name: str, quality: int, metric: str, weights: str = "") -> Path:
    """The file with the weights of a codec; downloads it if it is one of CompressAI's.

    Raises:
        FileNotFoundError: if the file does not exist, or cannot be downloaded.
        CdlError: if the downloaded file's hash is not the one in its name.
    """
    if weights:
        return Path(weights)
    if get_architecture(name).packaged is not None:
        path = PACKAGED_WEIGHTS / f"{name}-{quality}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing from this installation: {TRAIN_ONE}")
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
            f"there are no weights of {name} quality {quality} ({metric}): {TRAIN_ONE}"
        )
    return url


def download(
    url: str, folder: Path | None = None, timeout: float = TIMEOUT, largest: int = LARGEST
) -> Path:
    """Fetch `url` once into `folder` (default: torch.hub's) and check the hash in its name.

    The name ends in a dash and the first eight hexadecimal digits of the file's SHA-256.

    Args:
        timeout: seconds without a byte.
        largest: bytes.

    Raises:
        FileNotFoundError, CdlError, OSError: as Download.fetch; if the name carries no hash, or
            the file in the folder has another.
    """
    path = (folder or Path(torch.hub.get_dir()) / "checkpoints") / Path(url).name
    match = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    if match is None:
        raise CdlError(f"{path.name} carries no hash in its name, so it cannot be checked")
    otherwise = f"fetch it by hand and give its path as {WEIGHTS_OPTIONS}"
    Download(url, match[1], None, otherwise, timeout, largest).fetch(path)
    if not (digest := sha256_of(path)).startswith(match[1]):
        raise CdlError(
            f"{path} has SHA-256 {digest[:8]}..., its name says {match[1]}: the file is damaged or "
            "was replaced; delete it and try again"
        )
    return path
