"""One latent on disk: cells, image size, bits, and the codec that made it, as safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cdl_d2.codec import CodecIdentity, Latent, cell_size
from cdl_d2.files import write_atomically


@dataclass(frozen=True)
class StoredLatent:
    """What a latent file holds; `cells` is M x ceil(H/16) x ceil(W/16), float."""

    cells: torch.Tensor
    image_size: tuple[int, int]
    bits: float
    codec: CodecIdentity


def save_latent(path: str | Path, latent: Latent, codec: CodecIdentity) -> None:
    """Write the cells of a latent."""
    details = {
        "codec": json.dumps(vars(codec)),
        "image_size": json.dumps(latent.image_size),
        "bits": repr(latent.total_bits),
    }
    cells = latent.cells.cpu().contiguous()
    with write_atomically(path) as temporary:
        save_file({"y_hat": cells}, temporary, metadata=details)


def load_latent(path: str | Path, codec: CodecIdentity) -> StoredLatent:
    """Read a latent of `codec`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or its latent comes from another codec.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no latent file {path}: check INPUT.LATENT_STORE")
    try:
        with safe_open(path, framework="pt") as file:
            details, cells = file.metadata() or {}, file.get_tensor("y_hat")
        stored = StoredLatent(
            cells=cells,
            image_size=tuple(json.loads(details["image_size"])),
            bits=float(details["bits"]),
            codec=CodecIdentity(**json.loads(details["codec"])),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a latent file: {error}") from error
    if stored.codec != codec:
        raise ValueError(f"{path} was made by {stored.codec}; this model reads {codec}")
    if tuple(cells.shape[1:]) != cell_size(stored.image_size):
        raise ValueError(
            f"{path} has {tuple(cells.shape[1:])} cells for an image of {stored.image_size}"
        )
    return stored
