"""Plan of a latent store (codec, record format, variants, images), and its file `plan.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cdl_d2.codec import CodecIdentity
from cdl_d2.data.store.variant import Variant
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

FORMAT = 3
FORMATS = (1, 2, FORMAT)  # 1: shards without plans; 1 and 2: no sizes of images
FORMS = ("arrays", "bitstreams")


class StaleStoreError(CdlError):
    """Store of images or annotations that have changed since they were encoded."""


@dataclass(frozen=True)
class Plan:
    """Contents of a store.

    Attributes:
        codec: identity of the codec.
        form: format of the records: `arrays` (fast to read) or `bitstreams` (smallest, decoded when
            read).
        variants: variants of every image.
        images: paths relative to the folder of images.
        shard_size: images per shard.
        format: version of the store's files, one of FORMATS.
        annotations: SHA-256 of the annotation file that lists the images; "" if there is none or
            it is unknown. Plans that differ only in it are equal.
    """

    codec: CodecIdentity
    form: str
    variants: tuple[Variant, ...]
    images: tuple[str, ...]
    shard_size: int = 64
    format: int = field(default=FORMAT, compare=False)
    annotations: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.annotations, str):
            raise CdlError(f"annotations {self.annotations!r} of a store: expected a SHA-256")
        if self.form not in FORMS:
            raise CdlError(f"form {self.form!r} of a store: expected one of {', '.join(FORMS)}")
        if self.form == "bitstreams" and self.codec.quantization != "dequantized":
            raise CdlError(
                "bitstreams contain dequantized latents: use quantization 'dequantized', or arrays"
            )
        if not self.images or not self.variants or self.shard_size < 1:
            raise CdlError("expected images, variants and a shard size of at least 1 for a store")
        for image in self.images:
            try:
                image.encode()
            except UnicodeEncodeError as error:
                raise CdlError(f"the file name {image!r} is not UTF-8: rename it") from error
        for name, values in (("image", self.images), ("variant", self.variants)):
            if len(set(values)) < len(values):
                raise CdlError(f"a store has the same {name} twice")

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-len(self.images) // self.shard_size)

    def images_of(self, shard: int) -> tuple[str, ...]:
        """Return the images of a shard."""
        return self.images[shard * self.shard_size : (shard + 1) * self.shard_size]

    def of_shard(self, shard: int) -> Plan:
        """Return the plan of one shard, which is stored in it, too."""
        return replace(self, images=self.images_of(shard))

    def difference(self, plan: Plan) -> str:
        """Describe the first attribute in which another plan differs; "" if they are equal."""
        other_values = asdict(plan)
        for name, value in asdict(self).items():
            other_value = other_values[name]
            if name in ("format", "annotations") or other_value == value:
                continue
            if name == "images":
                return f"it has other images ({len(other_value)}, not {len(value)})"
            return f"its {name} is {other_value}, not {value}"
        return ""

    def save(self, folder: Path) -> None:
        """Write the plan unless the folder has it; of several processes at once, one writes.

        Raises:
            CdlError: if the folder has a store with another plan.
        """
        if folder.exists() and not folder.is_dir():
            raise CdlError(f"{folder} is a file, not a folder for a store")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with write_atomically(folder / "plan.json", replace=False) as temporary:
                temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        except FileExistsError:
            if difference := self.difference(Plan.load(folder)):
                raise CdlError(
                    f"{folder} has another store: {difference}; choose a new folder"
                ) from None

    def check_annotations(self, sha256: str, folder: Path) -> None:
        """Raise StaleStoreError if the annotations of a store in `folder` have another hash.

        An unknown hash, "", is equal to any other.
        """
        if self.annotations and sha256 and self.annotations != sha256:
            raise StaleStoreError(
                f"the annotations of {folder} have SHA-256 {self.annotations[:16]}, not "
                f"{sha256[:16]}"
            )

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan of a store.

        Raises:
            FileNotFoundError: if it does not exist.
            CdlError: if it is corrupted or of another format.
        """
        content = read_json(folder / "plan.json", f"{folder} is not a latent store")
        try:
            return cls.from_dict(content)
        except CdlError as error:
            raise CdlError(f"{folder / 'plan.json'} cannot be used: {error}") from error

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Plan:
        """Return a plan that was stored as a dict.

        Raises:
            CdlError: if it is invalid or of another format.
        """
        try:
            if content["format"] not in FORMATS:
                raise CdlError("it has another format: update cdl_d2")
            return cls(
                **{
                    **content,
                    "codec": CodecIdentity.from_dict(content["codec"]),
                    "variants": tuple(Variant(**v) for v in content["variants"]),
                    "images": tuple(content["images"]),
                }
            )
        except CdlError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CdlError(f"it is not the plan of a store ({error!r})") from error


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """Return the content of a JSON file; `hint` begins the message if it does not exist.

    Raises:
        FileNotFoundError: if the file does not exist.
        CdlError: if it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{hint} (there is no {path})")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CdlError(f"{path} is not JSON: {error}") from error
