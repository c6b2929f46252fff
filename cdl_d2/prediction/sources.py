"""Sources of an archive: images and bitstreams of files, folders, globs, tar files and stores."""

from __future__ import annotations

import os
from collections import Counter
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
NamedSource = tuple[str, ArchiveSource | None]  # None for a file that is no source


def find_sources(inputs: Sequence[str], output: Path | None = None) -> dict[str, ArchiveSource]:
    """Find all images and bitstreams of the inputs, by name.

    They come in the order of the inputs, and sorted within each. Enhancement layers are left out;
    other files are logged in a line. A file that is named as a source but cannot be read is
    Unreadable, such as a link that leads nowhere, a pipe, a folder without permission, or in a
    folder or glob a corrupted tar file.

    Args:
        inputs: files, whose names are their own; folders, tar files or latent stores, in which a
            name is the path; or globs of them. A folder may hold tar files. If names of members
            repeat, all begin with the name of their tar file.
        output: a folder that must not be inside the inputs.

    Raises:
        OSError: if an input does not exist or cannot be read.
        CdlError: if there are no inputs, or one has no source or is a corrupted tar file; if a name
            repeats, or the output is in an input.
    """
    if not inputs:
        raise CdlError("there are no inputs: give images, bitstreams, or folders of them")
    sources: list[tuple[str, ArchiveSource]] = []
    skipped: list[str] = []
    for text in inputs:
        if output and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(text)):
            raise CdlError(f"the output {output} is in the input {text}: give another folder")
        count = len(sources)
        for name, source in _expand(text):
            if source is None:
                skipped.append(name)
            else:
                sources.append((name, source))
        if len(sources) == count:
            raise CdlError(f"{text} holds no image or bitstream ({', '.join(sorted(SUFFIXES))})")
    by_name: dict[str, ArchiveSource] = {}
    for name, source in _add_tar_names(sources):
        if by_name.setdefault(name, source) is not source:
            raise CdlError(
                f"{by_name[name]} and {source} have one name, {name}: predict them separately"
            )
    if skipped:
        report_skipped(skipped, "image", "bitstream")
    return by_name


def find_image_files(inputs: Sequence[str]) -> list[Path]:
    """Find the image files of inputs, each once, in the order of find_sources.

    Files of several inputs may have the same name.

    Raises:
        OSError, CdlError: as find_sources, or if a source is no image file.
    """
    groups = [[text] for text in inputs] or [[]]
    sources = dict.fromkeys(source for group in groups for source in find_sources(group).values())
    for source in sources:
        if not isinstance(source, Path) or source.suffix.lower() not in IMAGE_SUFFIXES:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise CdlError(f"{source} is no image file; expected {suffixes}")
    return list(sources)


def _add_tar_names(
    sources: list[tuple[str, ArchiveSource]],
) -> list[tuple[str, ArchiveSource]]:
    """Put the name of their tar file before the names of members, if names repeat."""
    archives = {source.archive: None for _, source in sources if _is_in_tar(source)}
    if not archives or max(Counter(name for name, _ in sources).values()) == 1:
        return sources
    prefixes = name_prefixes(list(archives))
    return [
        (str(prefixes[source.archive] / name) if _is_in_tar(source) else name, source)
        for name, source in sources
    ]


def _is_in_tar(source: ArchiveSource) -> bool:
    return isinstance(source, TarMember | Unreadable) and source.archive is not None


def _expand(text: str) -> Iterator[NamedSource]:
    """Yield the sources of an input."""
    path = Path(text).absolute()  # the same for all processes
    if not os.path.lexists(path) and has_magic(text):
        matches = {Path(match) for match in _find_matches(_escape_folders(text))}
        for match in sorted(matches):
            if is_leftover(match.name) or not matches.isdisjoint(match.parents):
                continue  # a folder that matches includes it
            if os.path.isdir(match):
                yield from _expand(str(match))
            else:
                yield from _expand_file(match.absolute(), match.name)
    elif not path.exists():
        raise FileNotFoundError(f"there is no {text}")
    elif path.is_dir() and (path / "plan.json").is_file():
        for image in Plan.load(path).images:
            yield image, StoredLatent(path, image)
    elif path.is_dir():
        yield from _expand_folder(path)
    elif not is_named_as_source(path.name) and is_named_as_tar(path.name):
        yield from _expand_tar(path)
    else:
        yield path.name, path


def _escape_folders(pattern: str) -> str:
    """Escape the existing folders that a glob starts with."""
    literal, *paths = [*reversed(Path(pattern).parents), Path(pattern)]
    for path in paths:
        if not path.is_dir():
            break
        literal = path
    return os.path.join(escape(str(literal)), Path(pattern).relative_to(literal))


def _find_matches(pattern: str) -> set[str]:
    """Find the paths that match a glob; `**` matches a folder and all that list_folders lists."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return set(glob(pattern))
    index = parts.index("**")
    bases = glob(os.path.join(*parts[:index], "")) if index else ["."]
    if not {*parts[index:]} - {"**"}:
        return set(bases)
    folders = [folder for base in bases for folder in list_folders(Path(base))]
    inner = os.path.join(*parts[index + 1 :])
    return {match for f in folders for match in _find_matches(os.path.join(escape(str(f)), inner))}


def _expand_folder(folder: Path) -> Iterator[NamedSource]:
    """Yield the sources under a folder, sorted; raise OSError if it cannot be listed."""
    listing = list_files(folder, is_named_as_source)
    if folder in listing.errors:
        raise listing.errors[folder]
    for path in sorted([*listing.files, *listing.skipped, *listing.errors]):
        name = path.relative_to(folder).as_posix()
        if path in listing.errors:
            yield name, Unreadable(str(path), str(listing.errors[path]))
        else:
            yield from _expand_file(path, name)


def _expand_file(path: Path, name: str) -> Iterator[NamedSource]:
    """Yield the sources of a file in a folder or glob."""
    if is_named_as_tar(path.name):
        try:
            yield from list(_expand_tar(path))
        except (CdlError, OSError) as error:
            yield name, Unreadable(str(path), str(error))
    elif is_named_as_source(path.name):
        error = _file_error(path)
        yield name, Unreadable(str(path), error) if error else path
    elif not path.name.endswith(ENHANCEMENT_SUFFIXES):
        yield name, None


def _file_error(path: Path) -> str:
    """Return why a path is no file that can be read; empty if it is one."""
    if os.path.isfile(path):
        return ""
    return f"{path} {'is no regular file' if path.exists() else 'is a link that leads nowhere'}"


def _expand_tar(archive: Path) -> Iterator[NamedSource]:
    """Yield the sources of a tar file; raise as list_members."""
    if error := _file_error(archive):  # opening a pipe would block
        raise CdlError(error)
    for name, member in list_members(archive).items():
        if any(map(is_leftover, PurePosixPath(name).parts)):
            continue
        if is_named_as_source(name):
            is_error = isinstance(member, str)
            source = Unreadable(f"{archive}/{name}", member, archive) if is_error else member
            yield name, source
        elif not name.endswith(ENHANCEMENT_SUFFIXES):
            yield name, None


def is_named_as_source(name: str) -> bool:
    """Return whether a file name is that of an image or a bitstream, and no enhancement layer."""
    is_source = PurePosixPath(name).suffix.lower() in SUFFIXES
    return is_source and not name.endswith(ENHANCEMENT_SUFFIXES)
