"""What a latent store is to hold, and its file `plan.json`."""

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
FORMATS = (1, 2, FORMAT)  # of 1, shards do not say what they hold; of 1 and 2, no sizes of images
FORMS = ("arrays", "bitstreams")


@dataclass(frozen=True)
class Plan:
    """What a store is to hold.

    Attributes:
        codec: what encodes.
        form: `arrays` (fast to read) or `bitstreams` (smallest, decoded when read).
        variants: of every image.
        images: paths relative to the folder of images.
        shard_size: images a shard.
        format: of the store's files, one of FORMATS.
        annotations: SHA-256 of the file that named the images; empty if there was none, or it is
            not known. Plans that differ in it are of the same latents.
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
            raise CdlError(f"annotations {self.annotations!r} of a store are no SHA-256")
        if self.form not in FORMS:
            raise CdlError(f"form {self.form!r} of a store is not one of {', '.join(FORMS)}")
        if self.form == "bitstreams" and self.codec.quantization != "dequantized":
            raise CdlError(
                "bitstreams hold dequantized latents: take quantization 'dequantized', or arrays"
            )
        if not self.images or not self.variants or self.shard_size < 1:
            raise CdlError("a store needs images, variants and a shard size of at least 1")
        for image in self.images:
            try:
                image.encode()
            except UnicodeEncodeError as error:
                raise CdlError(f"the file name {image!r} is not UTF-8: rename it") from error
        for name, values in (("image", self.images), ("variant", self.variants)):
            if len(set(values)) < len(values):
                raise CdlError(f"the same {name} is to be stored twice")

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.images) // self.shard_size)

    def images_of(self, shard: int) -> tuple[str, ...]:
        """The images of a shard."""
        return self.images[shard * self.shard_size : (shard + 1) * self.shard_size]

    def of_shard(self, shard: int) -> Plan:
        """What a shard is to hold, which it also says itself."""
        return replace(self, images=self.images_of(shard))

    def difference(self, other: Plan) -> str:
        """The first thing in which another plan differs, in words; empty if it is the same."""
        theirs = asdict(other)
        for name, value in asdict(self).items():
            if name in ("format", "annotations") or theirs[name] == value:
                continue
            if name == "images":
                return f"it has other images ({len(theirs[name])}, not {len(value)})"
            return f"its {name} is {theirs[name]}, not {value}"
        return ""

    def save(self, folder: Path) -> None:
        """Write the plan, or find the same one there; of several processes at once, one writes.

        Raises:
            CdlError: if the folder has a store of another plan.
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
                    f"{folder} holds another store: {difference}; take a new folder"
                ) from None

    def check_annotations(self, sha256: str, folder: Path) -> None:
        """Raise CdlError if both hashes are known, and this plan, of a store in a folder, has
        another one."""
        if self.annotations and sha256 and self.annotations != sha256:
            raise CdlError(
                f"{folder} is of an annotation file with SHA-256 {self.annotations[:16]}, and this "
                f"one has {sha256[:16]}: if its images are the same, run the `cdl data encode` "
                "that made the store again, with --renew"
            )

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan of a store.

        Raises:
            FileNotFoundError: if there is none.
            CdlError: if it is damaged or of another format.
        """
        content = read_json(folder / "plan.json", f"{folder} is no latent store")
        try:
            return cls.from_dict(content)
        except CdlError as error:
            raise CdlError(f"{folder / 'plan.json'} cannot be used: {error}") from error

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Plan:
        """The plan that was written as a dict.

        Raises:
            CdlError: if it is none, or of another format.
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
            raise CdlError(f"it is no plan of a store ({error!r})") from error


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The content of a file of a store; `hint` says what it means if there is none.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{hint} (there is no {path})")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CdlError(f"{path} is not JSON: {error}") from error
