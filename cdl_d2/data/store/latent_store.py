"""Latents of a data set on disk, for random access by many readers.

```
store/plan.json                     codec, record format, variants and images
store/shard-00000.safetensors ...   records, their plan and fingerprints of their images
store/manifest.json                 written last: sizes and hashes of shards, images that failed
```

An image is identified by its path relative to the folder of images, with forward slashes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.latent import crop_to_image
from cdl_d2.data.store.image_source import SourceComparison
from cdl_d2.data.store.plan import Plan, StaleStoreError, read_json
from cdl_d2.data.store.record import Record, unpack_latent
from cdl_d2.data.store.shard import ShardReader, is_dict_of_texts
from cdl_d2.data.store.variant import Variant
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of, write_text

OPEN_SHARDS = 256  # files that a reader keeps open


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def record_name(image: str, variant: int) -> str:
    """Return the name of a record in its shard."""
    return f"{variant}/{image}"


def close_store(folder: Path, plan: Plan) -> dict[str, str] | None:
    """Write the manifest if all shards exist.

    Returns:
        errors of images that failed, by image; None if shards are missing.
    """
    if not all(shard_path(folder, shard).exists() for shard in range(plan.shards)):
        return None
    shards, failures = [], {}
    for shard in range(plan.shards):
        path = shard_path(folder, shard)
        failures |= ShardReader(path).failures
        shards.append({"bytes": path.stat().st_size, "sha256": sha256_of(path)})
    content = {"images": len(plan.images), "shards": shards, "failures": failures}
    write_text(folder / "manifest.json", json.dumps(content))
    return failures


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return sizes and hashes of a store's shards, and the images that failed.

    Raises:
        FileNotFoundError: if the store is not complete.
        CdlError: if the manifest is corrupted.
    """
    manifest = read_json(folder / "manifest.json", f"{folder} is not complete: continue encoding")
    if not _is_manifest(manifest):
        raise CdlError(f"{folder}/manifest.json is corrupted: delete it and continue encoding")
    return manifest


def _is_manifest(content: Any) -> bool:
    try:
        return is_dict_of_texts(content["failures"]) and all(
            type(shard["bytes"]) is int and isinstance(shard["sha256"], str)
            for shard in content["shards"]
        )
    except (KeyError, TypeError):
        return False


class LatentStore:
    """Reader of a latent store; safe to share among the workers of a loader.

    Args:
        folder: folder of the store.
        codecs: codecs that the model supports; one must have encoded the store, and decodes its
            bitstreams.

    Raises:
        FileNotFoundError: if there is no complete store.
        CdlError: if it is corrupted, or its latents are of another codec.
    """

    def __init__(self, folder: str | Path, *codecs: Codec):
        self.folder = Path(folder)
        self.plan = Plan.load(self.folder)
        by_identity = {codec.identity: codec for codec in codecs}
        identity = self.plan.codec
        if identity not in by_identity:
            difference = min((identity.differences(i) for i in by_identity), key=len, default="")
            raise CdlError(
                f"{folder} was encoded by {identity}, expected "
                f"{'; or '.join(map(str, by_identity))}: {difference}"
            )
        self._manifest = read_manifest(self.folder)
        self._codec = by_identity[identity]
        self._indices = {image: index for index, image in enumerate(self.plan.images)}
        self._variants = {variant: index for index, variant in enumerate(self.plan.variants)}
        self._readers: dict[int, ShardReader] = {}
        self._comparison = SourceComparison()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}  # open files cannot be sent to processes

    @property
    def failures(self) -> dict[str, str]:
        """Reasons why images could not be encoded, by image."""
        return self._manifest["failures"]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Variants of every image."""
        return self.plan.variants

    @property
    def upright_variant(self) -> Variant:
        """First variant that is not flipped.

        Raises:
            CdlError: if there is none.
        """
        variants = [variant for variant in self.variants if not variant.flip]
        if not variants:
            raise CdlError(f"the latent store {self.folder} has flipped images only")
        return variants[0]

    def original_size(self, file_name: str | PurePath) -> tuple[int, int]:
        """Return (H, W) in pixels of an image before it was resized.

        Stores of formats 1 and 2 lack it: they return the size of the upright variant.
        """
        image = self.find(file_name)
        source = self._reader_of(image).sources.get(image)
        if source is not None and source.image_size is not None:
            return source.image_size
        return self.record(image, self.upright_variant).image_size

    def require(self, variants: Sequence[Variant]) -> None:
        """Raise CdlError unless the store has all of these variants."""
        missing = [variant for variant in variants if variant not in self.variants]
        if missing:
            raise CdlError(
                f"the latent store {self.folder} has {'; '.join(map(str, self.variants))}, but not "
                f"{'; '.join(map(str, missing))}: encode these, or use other sizes"
            )

    def require_all_images(self) -> None:
        """Raise CdlError if an image could not be encoded."""
        if self.failures:
            image, reason = next(iter(self.failures.items()))
            raise CdlError(
                f"{len(self.failures)} images could not be encoded for the latent store "
                f"{self.folder}, such as {image} ({reason}): fix them and encode again"
            )

    def find(self, file_name: str | PurePath) -> str:
        """Return the name of the stored image with which a path ends.

        Raises:
            CdlError: if there is none, or several, such as a/x.png and x.png.
        """
        parts = PurePath(file_name).parts
        endings = ["/".join(parts[start:]) for start in range(len(parts))]
        images = [ending for ending in endings if ending in self._indices]
        if len(images) > 1:
            raise CdlError(
                f"{file_name} is ambiguous in the latent store {self.folder} "
                f"({' or '.join(images)}): rename one"
            )
        if not images:
            raise CdlError(f"{file_name} is not in the latent store {self.folder}")
        return images[0]

    def read(
        self,
        file_name: str | PurePath,
        variant: Variant,
        with_scales: bool = False,
        with_margin: bool = False,
    ) -> dict[str, Any]:
        """Return the latent of a variant of an image, as a sample of a batch.

        Returns:
            latent: M x ceil(H/16) x ceil(W/16), float; of bitstreams `with_margin` M x rows and
                columns of the coded grid, which arrays do not have;
            codec_identity: identity of the codec;
            image_size: (H, W) in pixels;
            bits: size of a bitstream's file, estimated for arrays;
            scales: predicted standard deviations, shaped like the latent, with `with_scales`.

        Raises:
            CdlError: if there is no such image or variant, it could not be encoded, the record is
                corrupted, or scales are requested from a store of arrays.
        """
        record = self.record(file_name, variant)
        if record.channels != self._codec.latent_channels:
            raise CdlError(
                f"{file_name} in the latent store {self.folder} is corrupted: it has "
                f"{record.channels} channels, expected {self._codec.latent_channels}"
            )
        item = {"codec_identity": self.plan.codec, "bits": record.bits}
        if record.dtype != "bitstream":
            if with_scales:
                raise CdlError(
                    f"the latent store {self.folder} has arrays, which have no scales: expected "
                    "bitstreams"
                )
            return item | {"latent": unpack_latent(record), "image_size": record.image_size}
        stream = Bitstream.from_bytes(record.content)
        quantized, size = self._codec.read_symbols(stream), stream.image_size
        latent = crop_to_image(quantized.y_hat, size, with_margin=with_margin)
        item |= {"latent": latent, "image_size": size}
        if with_scales:
            item["scales"] = crop_to_image(quantized.scales_hat, size, with_margin=with_margin)
        return item

    def record(self, file_name: str | PurePath, variant: Variant) -> Record:
        """Return the record of a variant of an image; errors as in `read`."""
        image = self.find(file_name)
        if variant not in self._variants:
            raise CdlError(
                f"{self.folder} has no latents of {variant}, only "
                f"{'; '.join(map(str, self.variants))}"
            )
        reader = self._reader_of(image)
        if image in reader.failures:
            raise CdlError(f"{image} could not be encoded: {reader.failures[image]}")
        return reader[record_name(image, self._variants[variant])]

    def check_image(self, path: Path) -> None:
        """Raise StaleStoreError if an image file exists and has changed since it was encoded.

        The size is compared; hashes only of the first few files with another time of change.
        """
        image = self.find(path)
        source = self._reader_of(image).sources.get(image)
        change = "" if source is None else self._comparison.describe_change(source, path)
        if change:
            raise StaleStoreError(
                f"the latent store {self.folder} is of another image ({change}): use the store of "
                "this data set, or encode it again"
            )

    def _reader_of(self, image: str) -> ShardReader:
        shard = self._indices[image] // self.plan.shard_size
        if shard not in self._readers:
            while len(self._readers) >= OPEN_SHARDS:
                del self._readers[next(iter(self._readers))]  # opened first
            reader = ShardReader(shard_path(self.folder, shard))
            reader.check(self.plan.of_shard(shard), thorough=False)
            self._readers[shard] = reader
        return self._readers[shard]
