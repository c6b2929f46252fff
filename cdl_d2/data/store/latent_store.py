"""A data set's latents on disk, for random access by many readers.

```
store/plan.json              what is to be encoded, and how (see Plan)
store/shard-00000.safetensors ...      see shard.py; each says what it holds, and of which images
store/manifest.json          written last: sizes and checksums of all shards, images that failed
```

An image is known by its path relative to the folder it was encoded from, with forward slashes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.latent import crop_to_image
from cdl_d2.data.store.image_source import SourceComparison
from cdl_d2.data.store.plan import Plan, read_json
from cdl_d2.data.store.shard import Record, ShardReader, is_text_by_text, unpack_cells
from cdl_d2.data.store.variant import Variant
from cdl_d2.errors import CdlError
from cdl_d2.files import sha256_of, write_text

OPEN_SHARDS = 256  # files that a reader keeps open


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{shard:05d}.safetensors"


def record_name(image: str, variant: int) -> str:
    """What a record is called in its shard."""
    return f"{variant}/{image}"


def write_manifest(folder: Path, plan: Plan) -> dict[str, str]:
    """Close a store whose shards are all there.

    Returns:
        the images that could not be encoded, and why.
    """
    shards, failures = [], {}
    for shard in range(plan.shards):
        path = shard_path(folder, shard)
        failures |= ShardReader(path).failures
        shards.append({"bytes": path.stat().st_size, "sha256": sha256_of(path)})
    content = {"images": len(plan.images), "shards": shards, "failures": failures}
    write_text(folder / "manifest.json", json.dumps(content))
    return failures


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a store says of its shards.

    Raises:
        FileNotFoundError: if it is not complete.
        CdlError: if it is damaged.
    """
    hint = "run `cdl data encode` again to finish the store"
    manifest = read_json(folder / "manifest.json", f"{folder} is not complete: {hint}")
    if not _is_manifest(manifest):
        raise CdlError(f"{folder}/manifest.json is no manifest: delete it, and {hint}")
    return manifest


def _is_manifest(content: Any) -> bool:
    try:
        return is_text_by_text(content["failures"]) and all(
            type(shard["bytes"]) is int and isinstance(shard["sha256"], str)
            for shard in content["shards"]
        )
    except (KeyError, TypeError):
        return False


class LatentStore:
    """Reads a latent store; safe to share among the workers of a loader.

    Args:
        folder: of the store.
        codecs: of the model that reads it, one of which made it; it also decodes bitstreams.

    Raises:
        FileNotFoundError: if there is no store, or it is not complete.
        CdlError: if it is damaged, or its latents come from another codec.
    """

    def __init__(self, folder: str | Path, *codecs: Codec):
        self.folder = Path(folder)
        self.plan = Plan.load(self.folder)
        known = {codec.identity: codec for codec in codecs}
        if self.plan.codec not in known:
            theirs = self.plan.codec
            nearest = min((theirs.differences(ours) for ours in known), key=len, default="")
            raise CdlError(
                f"{folder} was made by {theirs}; this model reads "
                f"{'; or '.join(map(str, known))}: {nearest}"
            )
        self._manifest = read_manifest(self.folder)
        self._codec = known[self.plan.codec]
        self._places = {image: index for index, image in enumerate(self.plan.images)}
        self._variants = {variant: index for index, variant in enumerate(self.plan.variants)}
        self._readers: dict[int, ShardReader] = {}
        self._compare = SourceComparison()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}  # open files do not travel between processes

    @property
    def failures(self) -> dict[str, str]:
        """The images that could not be encoded, and why."""
        return self._manifest["failures"]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Of every image."""
        return self.plan.variants

    @property
    def upright_variant(self) -> Variant:
        """First variant that is not flipped, whose results are those of the image.

        Raises:
            CdlError: if there is none.
        """
        variants = [variant for variant in self.variants if not variant.flip]
        if not variants:
            raise CdlError(f"the latent store {self.folder} has flipped images only: encode others")
        return variants[0]

    def original_size(self, file_name: str | PurePath) -> tuple[int, int]:
        """Return (H, W) in pixels of an image before it was resized; of a store of formats 1 or 2,
        which does not say it, that of the upright variant. Raises as `read`."""
        image = self.find(file_name)
        source = self._reader_of(image).sources.get(image)
        if source is not None and source.image_size is not None:
            return source.image_size
        return self.record(image, self.upright_variant).image_size

    def require(self, variants: Sequence[Variant]) -> None:
        """Raise CdlError unless all of the variants are there, of every image."""
        missing = [variant for variant in variants if variant not in self.variants]
        if missing:
            raise CdlError(
                f"the latent store {self.folder} has {'; '.join(map(str, self.variants))}, but not "
                f"{'; '.join(map(str, missing))}, which the config asks for: encode them, or ask "
                "for other sizes"
            )

    def require_all_images(self) -> None:
        """Raise CdlError if an image could not be encoded."""
        if self.failures:
            image, reason = next(iter(self.failures.items()))
            raise CdlError(
                f"{len(self.failures)} images could not be encoded for the latent store "
                f"{self.folder}, such as {image} ({reason}): mend them and encode again"
            )

    def find(self, file_name: str | PurePath) -> str:
        """The stored image that a path means: the one that it ends in.

        Raises:
            CdlError: if there is none, or several, such as a/x.png and x.png.
        """
        parts = PurePath(file_name).parts
        endings = ["/".join(parts[start:]) for start in range(len(parts))]
        images = [ending for ending in endings if ending in self._places]
        if len(images) > 1:
            raise CdlError(
                f"{file_name} can be {' or '.join(images)} of the latent store {self.folder}: "
                "rename one"
            )
        if not images:
            raise CdlError(f"{file_name} is not in the latent store {self.folder}")
        return images[0]

    def read(
        self, file_name: str | PurePath, variant: Variant, with_scales: bool = False
    ) -> dict[str, Any]:
        """The latent of a variant of an image, as an item of a batch.

        Returns:
            latent: M x ceil(H/16) x ceil(W/16), float;
            codec_identity: of the codec that made it;
            image_size: (H, W) in pixels;
            bits: of the coded image: of its file for bitstreams, estimated for arrays;
            scales: as latent, if asked for; the deviations that the entropy model predicts.

        Raises:
            CdlError: if the store has no such image or variant; if the image could not be
                encoded, or what is stored is damaged; or if scales are asked for and the store has
                arrays.
        """
        record = self.record(file_name, variant)
        if record.channels != self._codec.latent_channels:
            raise CdlError(
                f"{file_name} in the latent store {self.folder} is damaged: it has "
                f"{record.channels} channels, and the codec {self._codec.latent_channels}"
            )
        item = {"codec_identity": self.plan.codec, "bits": record.bits}
        if record.dtype != "bitstream":
            if with_scales:
                raise CdlError(
                    f"the latent store {self.folder} has arrays, which have no scales: encode with "
                    "--form bitstreams"
                )
            return item | {"latent": unpack_cells(record), "image_size": record.image_size}
        stream = Bitstream.from_bytes(record.content)
        quantized, size = self._codec.read_symbols(stream), stream.image_size
        item |= {"latent": crop_to_image(quantized.y_hat, size), "image_size": size}
        if with_scales:
            item["scales"] = crop_to_image(quantized.scales_hat, size)
        return item

    def record(self, file_name: str | PurePath, variant: Variant) -> Record:
        """What is stored of a variant of an image; raises as `read`."""
        image = self.find(file_name)
        if variant not in self._variants:
            raise CdlError(
                f"{self.folder} has no latents of {variant}, only of "
                f"{'; '.join(map(str, self.variants))}"
            )
        reader = self._reader_of(image)
        if image in reader.failures:
            raise CdlError(f"{image} could not be encoded: {reader.failures[image]}")
        return reader[record_name(image, self._variants[variant])]

    def check_image(self, path: Path) -> None:
        """Raise CdlError if an image file is there, and is not the one that was encoded.

        Sizes of all are compared, and the content of the first few whose time is another.
        """
        image = self.find(path)
        source = self._reader_of(image).sources.get(image)
        if source is not None and (how := self._compare(source, path)):
            raise CdlError(
                f"the latent store {self.folder} is of another image ({how}): take the store of "
                "this data set, or encode it again, with --renew"
            )

    def _reader_of(self, image: str) -> ShardReader:
        shard = self._places[image] // self.plan.shard_size
        if shard not in self._readers:
            while len(self._readers) >= OPEN_SHARDS:
                del self._readers[next(iter(self._readers))]  # the one opened first
            reader = ShardReader(shard_path(self.folder, shard))
            reader.check(self.plan.of_shard(shard), thorough=False)
            self._readers[shard] = reader
        return self._readers[shard]
