"""A DatasetMapper whose items carry latents."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import configurable
from detectron2.data import DatasetMapper

from cdl_d2.codec import Codec
from cdl_d2.d2.codec import build_codec
from cdl_d2.d2.config import LATENT_SOURCES
from cdl_d2.d2.encoding import encode_item
from cdl_d2.data import load_latent


class LatentDatasetMapper(DatasetMapper):
    """Detectron2's DatasetMapper, then the encoder in the loader's workers, or a stored latent.

    With a store there is no augmentation: the item has the size that the latent was made at.
    """

    @configurable
    def __init__(
        self, is_train: bool, *, codec: Codec, domain: str, store: Path | None = None, **kwargs
    ):
        """
        Args:
            codec: stays on the CPU, where the loader's workers are.
            domain: `latent` or `reconstruction`.
            store: folder of latent files to read; None to encode.
            kwargs: those of DatasetMapper.
        """
        super().__init__(is_train, **kwargs)
        if store is not None and domain != "latent":
            raise ValueError(f"INPUT.LATENT_SOURCE store has latents only, not domain {domain!r}")
        if store is not None and not store.is_dir():
            raise FileNotFoundError(f"INPUT.LATENT_STORE {store} is not a folder")
        self._codec, self._domain, self._store = codec, domain, store

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        stored = cfg.INPUT.LATENT_SOURCE == "store"
        return {
            **super().from_config(cfg, is_train),
            "codec": copy.deepcopy(build_codec(cfg)).cpu(),
            "domain": cfg.INPUT.DOMAIN,
            "store": Path(cfg.INPUT.LATENT_STORE) if stored else None,
        }

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As DatasetMapper, with the keys of `encode_item`."""
        if self._store is None:
            item = super().__call__(dataset_dict)
            return encode_item(item, self._codec, self.image_format, self._domain, "cpu")
        path = self._store / f"{Path(dataset_dict['file_name']).stem}.safetensors"
        stored = load_latent(path, self._codec.identity)
        _check_same_picture(path, stored.image_size, dataset_dict)
        resizing = copy.copy(self)
        resizing.augmentations = T.AugmentationList([T.Resize(stored.image_size)])
        return {
            **DatasetMapper.__call__(resizing, dataset_dict),
            "latent": stored.cells,
            "codec_identity": stored.codec,
            "image_size": stored.image_size,
            "bits": stored.bits,
        }


def _check_same_picture(path: Path, size: tuple[int, int], record: dict[str, Any]) -> None:
    height, width = record["height"], record["width"]
    if abs(size[0] * width - size[1] * height) > max(height, width):  # more than rounding
        raise ValueError(
            f"{path} is the latent of an image of {size[0]}x{size[1]} pixels, which is no resized "
            f"{record['file_name']} ({height}x{width}): file names must be unique in a store"
        )


def build_mapper(cfg, is_train: bool) -> DatasetMapper:
    """The mapper for INPUT.DOMAIN and INPUT.LATENT_SOURCE."""
    source = cfg.INPUT.LATENT_SOURCE
    if source not in LATENT_SOURCES:
        raise ValueError(
            f"INPUT.LATENT_SOURCE {source!r} is not one of {', '.join(LATENT_SOURCES)}"
        )
    if cfg.INPUT.DOMAIN == "image" or source == "model":
        return DatasetMapper(cfg, is_train)
    return LatentDatasetMapper(cfg, is_train)
