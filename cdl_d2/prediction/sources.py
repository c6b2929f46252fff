"""What is in an archive: files, folders, globs, tar files and latent stores, in one order."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path, PurePosixPath

from cdl_d2.codec.bitstream.compressai_file import COMPRESSAI_SUFFIX
from cdl_d2.codec.bitstream.stream import REST_SUFFIX, SUFFIX
from cdl_d2.codec.image_files import IMAGE_SUFFIXES
from cdl_d2.data.store.plan import Plan
from cdl_d2.errors import CdlError
from cdl_d2.prediction.reading import StoredLatent, TarMember

TAR = ".tar"
SUFFIXES = {*IMAGE_SUFFIXES, SUFFIX, COMPRESSAI_SUFFIX}
ArchiveSource = Path | TarMember | StoredLatent


def find_sources(inputs: Sequence[str], output: Path | None = None) -> dict[str, ArchiveSource]:
    """All images and bitstreams of the inputs, by name, in the order of the inputs and sorted in
    each; second layers are left out.

    Args:
        inputs: a file, whose name is its own; a folder, a tar file or a latent store, in which a
            name is the path; or a glob of them. A folder may hold tar files.
        output: a folder that must not be inside of them.

    Raises:
        FileNotFoundError: if there is no such input.
        CdlError: if there is nothing in it, if a name comes twice, or if one leads elsewhere; if
            the output is in an input.
    """
    found: dict[str, ArchiveSource] = {}
    stems: dict[str, str] = {}
    for given in inputs:
        if output and output.resolve().is_relative_to(Path(given).resolve()):
            raise CdlError(f"--output {output} is in the input {given}: give another folder")
        empty = True
        for name, source in _expanded(given):
            empty = False
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise CdlError(f"{given} holds {name}, a name that leads out of it")
            stem = str(path.with_suffix(""))
            if stem in stems:
                raise CdlError(
                    f"{stems[stem]} and {source} have one name, {stem}: predict them separately"
                )
            stems[stem] = str(source)
            found[name] = source
        if empty:
            raise CdlError(f"{given} holds no image or bitstream ({', '.join(sorted(SUFFIXES))})")
    return found


def _expanded(given: str) -> Iterator[tuple[str, ArchiveSource]]:
    path = Path(given).absolute()  # the same for whoever works on it, wherever
    if not path.exists() and has_magic(given):
        for match in sorted(glob(given, recursive=True)):
            if Path(match).is_dir() or _is_wanted(match) or Path(match).suffix == TAR:
                yield from _expanded(match)
    elif not path.exists():
        raise FileNotFoundError(f"there is no {given}")
    elif path.is_dir() and (path / "plan.json").is_file():
        for image in Plan.load(path).images:
            yield image, StoredLatent(path, image)
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix == TAR:
                yield from _members(file)
            elif _is_wanted(file.name) and file.is_file():
                yield file.relative_to(path).as_posix(), file
    elif path.suffix == TAR:
        yield from _members(path)
    else:
        yield path.name, path


def _members(archive: Path) -> Iterator[tuple[str, TarMember]]:
    """The files of an uncompressed tar, such as a webdataset's, sorted by name."""
    try:
        with tarfile.open(archive, "r:") as tar:
            files = [m for m in tar if m.isfile() and _is_wanted(m.name)]
            if tar.offset >= archive.stat().st_size:  # no block that says that it is all
                raise EOFError("it is truncated")
    except (tarfile.TarError, EOFError) as error:
        raise CdlError(f"{archive} cannot be read as an uncompressed tar file: {error}") from error
    for member in sorted(files, key=lambda member: member.name):
        name = member.name.removeprefix("./")
        yield name, TarMember(archive, name, member.offset_data, member.size)


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not name.endswith(REST_SUFFIX) and not hidden
