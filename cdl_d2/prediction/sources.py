"""What is in an archive: files, folders, globs, tar files and latent stores, in one order."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from glob import escape, glob, has_magic
from pathlib import Path, PurePosixPath

from cdl_d2.codec.bitstream.compressai_file import COMPRESSAI_SUFFIX
from cdl_d2.codec.bitstream.stream import REST_SUFFIX, SUFFIX
from cdl_d2.codec.image_files import IMAGE_SUFFIXES
from cdl_d2.data.store.plan import Plan
from cdl_d2.errors import CdlError
from cdl_d2.prediction.reading import StoredLatent, TarMember, Unreadable

TAR = ".tar"
SUFFIXES = {*IMAGE_SUFFIXES, SUFFIX, COMPRESSAI_SUFFIX}
ArchiveSource = Path | TarMember | StoredLatent | Unreadable


def find_sources(inputs: Sequence[str], output: Path | None = None) -> dict[str, ArchiveSource]:
    """Return all images and bitstreams of the inputs, by name, in the order of the inputs and
    sorted in each. Second layers are left out.

    What is named as an image, bitstream or tar file and cannot be read is Unreadable: a link that
    leads nowhere, a pipe, a folder without permission; in a folder or glob also a damaged tar file.

    Args:
        inputs: a file, whose name is its own; a folder, a tar file or a latent store, in which a
            name is the path; or a glob of them. A folder may hold tar files.
        output: a folder that must not be inside of them.

    Raises:
        OSError: if there is no such input, or a tar file or folder that was given cannot be read.
        CdlError: if there is nothing in it, or a name comes twice; for a tar file that was given
            and is damaged; if the output is in an input.
    """
    found: dict[str, ArchiveSource] = {}
    stems: dict[str, str] = {}
    for given in inputs:
        if output and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(given)):
            raise CdlError(f"--output {output} is in the input {given}: give another folder")
        empty = True
        for name, source in _expanded(given):
            empty = False
            holds_others = isinstance(source, Unreadable) and not _is_wanted(name)
            stem = name if holds_others else str(PurePosixPath(name).with_suffix(""))
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
    if not os.path.lexists(path) and has_magic(given):
        for match in sorted(glob(_pattern(given), recursive=True)):
            if os.path.isdir(match):
                yield from _expanded(match)
            else:
                yield from _one_of_many(Path(match).absolute(), os.path.basename(match))
    elif not path.exists():
        raise FileNotFoundError(f"there is no {given}")
    elif path.is_dir() and (path / "plan.json").is_file():
        for image in Plan.load(path).images:
            yield image, StoredLatent(path, image)
    elif path.is_dir():
        yield from _under(path)
    elif path.suffix == TAR:
        yield from _members(path)
    else:
        yield path.name, path


def _pattern(given: str) -> str:
    """Return a glob in which the folders that exist stand for themselves, brackets included."""
    literal, *others = [*reversed(Path(given).parents), Path(given)]
    for path in others:
        if not path.is_dir():
            break
        literal = path
    return os.path.join(escape(str(literal)), Path(given).relative_to(literal))


def _under(folder: Path) -> Iterator[tuple[str, ArchiveSource]]:
    """Yield the sources under a folder, sorted; raises OSError if it cannot be listed."""
    errors: list[OSError] = []
    files = [
        Path(place, name)
        for place, _, names in os.walk(folder, onerror=errors.append)
        for name in names
    ]
    lost = {Path(error.filename): error for error in errors}
    if folder in lost:
        raise lost[folder]
    for path in sorted([*files, *lost]):
        name = path.relative_to(folder).as_posix()
        if path in lost:
            yield name, Unreadable(str(path), str(lost[path]))
        else:
            yield from _one_of_many(path, name)


def _one_of_many(path: Path, name: str) -> Iterator[tuple[str, ArchiveSource]]:
    """Yield the sources in a file of a folder or glob; none of a file that is something else."""
    if path.suffix == TAR and not path.name.startswith("."):
        try:
            yield from list(_members(path))
        except (CdlError, OSError) as error:
            yield name, Unreadable(str(path), str(error))
    elif _is_wanted(path.name):
        error = _why_no_file(path)
        yield name, Unreadable(str(path), error) if error else path


def _why_no_file(path: Path) -> str:
    """Return why a path is no file that can be read, or an empty text."""
    if os.path.isfile(path):
        return ""
    return f"{path} {'is no regular file' if path.exists() else 'is a link that leads nowhere'}"


def _members(archive: Path) -> Iterator[tuple[str, ArchiveSource]]:
    """Yield the files of an uncompressed tar, such as a webdataset's, sorted by name.

    Raises:
        CdlError, OSError: if it cannot be read.
    """
    if error := _why_no_file(archive):  # a pipe would be waited for
        raise CdlError(error)
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError(f"{member.name} has a size of {member.size}")
                name = posixpath.normpath(member.name)
                if not (member.islnk() and posixpath.normpath(member.linkname) == name):
                    members[name] = member  # of two the last one, as when they are extracted
            if tar.offset >= archive.stat().st_size:  # no block that says that it is all
                raise EOFError("it is truncated")
    except (tarfile.TarError, EOFError, OverflowError, RecursionError, ValueError) as error:
        raise CdlError(f"{archive} cannot be read as an uncompressed tar file: {error}") from error
    for name in sorted(members):
        if _is_wanted(name) and not members[name].isdir():
            yield name, _member(archive, name, members)


def _member(
    archive: Path, name: str, members: Mapping[str, tarfile.TarInfo]
) -> TarMember | Unreadable:
    """Return a member of a tar file; of a link the one that it leads to."""
    place, member, passed = f"{archive}/{name}", members[name], {name}
    if name.startswith(("/", "../")) or "\0" in name:
        return Unreadable(place, f"{place} has a name that leads out of the tar file")
    target = name
    while member.islnk() or member.issym():
        folder = posixpath.dirname(target) if member.issym() else ""
        target = posixpath.normpath(posixpath.join(folder, member.linkname))
        if target in passed or target not in members:
            return Unreadable(place, f"{place} is a link to {target}, which the tar file has not")
        passed.add(target)
        member = members[target]
    if not member.isfile():
        return Unreadable(place, f"{place} is no regular file")
    if member.issparse():
        return Unreadable(place, f"{place} is stored as a sparse file: pack it without --sparse")
    return TarMember(archive, name, member.offset_data, member.size)


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".")
    return path.suffix.lower() in SUFFIXES and not name.endswith(REST_SUFFIX) and not hidden
