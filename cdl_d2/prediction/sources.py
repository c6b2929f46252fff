"""What is in an archive: files, folders, globs, tar files and latent stores, in one order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from glob import escape, glob, has_magic
from pathlib import Path, PurePosixPath

from cdl_d2.codec.bitstream.compressai_file import COMPRESSAI_SUFFIX
from cdl_d2.codec.bitstream.stream import ENHANCEMENT_SUFFIXES, SUFFIX
from cdl_d2.codec.io.folders import is_leftover, list_files, list_folders, report_skipped
from cdl_d2.codec.io.image_files import IMAGE_SUFFIXES
from cdl_d2.data.store.plan import Plan
from cdl_d2.errors import CdlError
from cdl_d2.prediction.reading import StoredLatent, Unreadable
from cdl_d2.prediction.tar_files import TarMember, is_named_as_tar, list_members, name_prefixes

SUFFIXES = {*IMAGE_SUFFIXES, SUFFIX, COMPRESSAI_SUFFIX}
ArchiveSource = Path | TarMember | StoredLatent | Unreadable
Entries = Iterator[tuple[str, ArchiveSource | None]]


def find_sources(inputs: Sequence[str], output: Path | None = None) -> dict[str, ArchiveSource]:
    """Return all images and bitstreams of the inputs, by name, in the order of the inputs and
    sorted in each. Enhancement layers are left out; other files are logged in a line.

    What is named as an image, bitstream or tar file and cannot be read is Unreadable: a link that
    leads nowhere, a pipe, a folder without permission; in a folder or glob also a damaged tar file.

    Args:
        inputs: a file, whose name is its own; a folder, a tar file or a latent store, in which a
            name is the path; or a glob of them. A folder may hold tar files. Where names of members
            come more than once, all begin with the name of their tar file.
        output: a folder that must not be inside of them.

    Raises:
        OSError: if there is no such input, or a tar file or folder that was given cannot be read.
        CdlError: if there is nothing in it, or a name comes twice; for a tar file that was given
            and is damaged; if the output is in an input.
    """
    entries: list[tuple[str, ArchiveSource]] = []
    skipped: list[str] = []
    for given in inputs:
        if output and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(given)):
            raise CdlError(f"--output {output} is in the input {given}: give another folder")
        before = len(entries)
        for name, source in _expanded(given):
            if source is None:
                skipped.append(name)
            else:
                entries.append((name, source))
        if len(entries) == before:
            raise CdlError(f"{given} holds no image or bitstream ({', '.join(sorted(SUFFIXES))})")
    sources: dict[str, ArchiveSource] = {}
    for name, source in _with_names_of_tars(entries):
        if name in sources:
            raise CdlError(
                f"{sources[name]} and {source} have one name, {name}: predict them separately"
            )
        sources[name] = source
    report_skipped(skipped, "image", "bitstream")
    return sources


def find_image_files(inputs: Sequence[str]) -> list[Path]:
    """Return the image files of inputs, in the order of find_sources.

    Raises:
        OSError, CdlError: as find_sources, or for what is no image file of its own.
    """
    if not inputs:
        raise CdlError("there are no inputs: give images, or folders of them")
    sources = list(find_sources(inputs).values())
    for source in sources:
        if not isinstance(source, Path) or source.suffix.lower() not in IMAGE_SUFFIXES:
            raise CdlError(f"{source} is no image file; expected {', '.join(IMAGE_SUFFIXES)}")
    return sources


def _with_names_of_tars(
    entries: list[tuple[str, ArchiveSource]],
) -> list[tuple[str, ArchiveSource]]:
    """Return sources with the name of their tar file in front of their own, where names of members
    come more than once."""
    archives = {source.archive: None for _, source in entries if _is_in_tar(source)}
    if not archives or len({name for name, _ in entries}) == len(entries):
        return entries
    prefixes = name_prefixes(list(archives))
    return [
        (str(prefixes[source.archive] / name) if _is_in_tar(source) else name, source)
        for name, source in entries
    ]


def _is_in_tar(source: ArchiveSource) -> bool:
    return isinstance(source, TarMember | Unreadable) and source.archive is not None


def _expanded(given: str) -> Entries:
    """Yield the sources in an input, by name; None for a file that is no source."""
    path = Path(given).absolute()  # the same for whoever works on it, wherever
    if not os.path.lexists(path) and has_magic(given):
        matches = {Path(match) for match in _matches(_pattern(given))}
        for match in sorted(matches):
            if is_leftover(match.name) or not matches.isdisjoint(match.parents):
                continue  # the folder that it is in brings it
            if os.path.isdir(match):
                yield from _expanded(str(match))
            else:
                yield from _one_of_many(match.absolute(), match.name)
    elif not path.exists():
        raise FileNotFoundError(f"there is no {given}")
    elif path.is_dir() and (path / "plan.json").is_file():
        for image in Plan.load(path).images:
            yield image, StoredLatent(path, image)
    elif path.is_dir():
        yield from _under(path)
    elif is_named_as_tar(path.name):
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


def _matches(pattern: str) -> set[str]:
    """Return the paths that a glob stands for. `**` is a folder and all that list_folders finds in
    it, and a pattern that ends so is that of the folder."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return set(glob(pattern))
    place = parts.index("**")
    bases = glob(os.path.join(*parts[:place], "")) if place else ["."]
    if not {*parts[place:]} - {"**"}:
        return set(bases)
    folders = [folder for base in bases for folder in list_folders(Path(base))]
    inner = os.path.join(*parts[place + 1 :])
    return {match for f in folders for match in _matches(os.path.join(escape(str(f)), inner))}


def _under(folder: Path) -> Entries:
    """Yield the sources under a folder, sorted; raises OSError if it cannot be listed."""
    listing = list_files(folder, is_named_as_source)
    if folder in listing.errors:
        raise listing.errors[folder]
    for path in sorted([*listing.files, *listing.skipped, *listing.errors]):
        name = path.relative_to(folder).as_posix()
        if path in listing.errors:
            yield name, Unreadable(str(path), str(listing.errors[path]))
        else:
            yield from _one_of_many(path, name)


def _one_of_many(path: Path, name: str) -> Entries:
    """Yield the sources in a file of a folder or glob; None for a file that is something else."""
    if is_named_as_tar(path.name):
        try:
            yield from list(_members(path))
        except (CdlError, OSError) as error:
            yield name, Unreadable(str(path), str(error))
    elif is_named_as_source(path.name):
        error = _why_no_file(path)
        yield name, Unreadable(str(path), error) if error else path
    elif not path.name.endswith(ENHANCEMENT_SUFFIXES):
        yield name, None


def _why_no_file(path: Path) -> str:
    """Return why a path is no file that can be read, or an empty text."""
    if os.path.isfile(path):
        return ""
    return f"{path} {'is no regular file' if path.exists() else 'is a link that leads nowhere'}"


def _members(archive: Path) -> Entries:
    """Yield the sources in a tar file, and None for its other files; raises as list_members."""
    if error := _why_no_file(archive):  # a pipe would be waited for
        raise CdlError(error)
    for name, member in list_members(archive).items():
        if any(map(is_leftover, PurePosixPath(name).parts)):
            continue
        if is_named_as_source(name):
            is_text = isinstance(member, str)
            source = Unreadable(f"{archive}/{name}", member, archive) if is_text else member
            yield name, source
        elif not name.endswith(ENHANCEMENT_SUFFIXES):
            yield name, None


def is_named_as_source(name: str) -> bool:
    """Return whether the name of a file ends as an image's or a bitstream's does, and is not an
    enhancement layer."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not name.endswith(
        ENHANCEMENT_SUFFIXES
    )
