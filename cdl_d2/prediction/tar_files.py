"""Tar files, plain and compressed, and their members."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tarfile import EmptyHeaderError, EOFHeaderError, InvalidHeaderError, TruncatedHeaderError
from typing import Any, BinaryIO

import zstandard

from cdl_d2.errors import CdlError
from cdl_d2.files import check_regular_file

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2")
SUFFIXES += (".tar.xz", ".txz")
MAX_MEMBER_BYTES = 2**30  # of a member of a compressed tar file, which memory has to hold
CACHE_BYTES = 2**26  # of the members that were read last, which a caller may read again
MAX_OPEN_FILES = 4  # compressed tar files
CORRUPTION = (  # raised for corrupted tar files
    *(tarfile.TarError, EOFError, OverflowError, RecursionError, ValueError),
    *(lzma.LZMAError, zlib.error, zstandard.ZstdError),
)

PADDING = (  # raised where a header is expected and there is none
    *(EmptyHeaderError, InvalidHeaderError, TruncatedHeaderError),
    *(gzip.BadGzipFile, zstandard.ZstdError),
)


@dataclass(frozen=True)
class TarMember:
    """File inside a tar file.

    Attributes:
        archive: the tar file.
        name: of the file in it.
        offset, size: of its content in the tar, without compression, in bytes.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        """Return the content; raise OSError, or CdlError if the archive has changed."""
        check_regular_file(self.archive)
        with reading_tar(self.archive):
            content = self._read()
        if len(content) != self.size:
            raise CdlError(f"{self.archive} ends inside of {self.name}: it is truncated")
        return content

    def _read(self) -> bytes:
        if _opener(self.archive) is not None:
            state = os.stat(self.archive)  # a forked process needs a file position of its own
            key = self.archive, state.st_size, state.st_mtime_ns, os.getpid()
            return _compressed(*key).read(self.offset, self.size)
        with open(self.archive, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class CompressedFile:
    """Compressed file that is read forward, in bounded memory.

    Reading members in another order than they are stored in is slow: going back decompresses the
    file from its start. The members that were read last are cached.
    """

    def __init__(self, path: Path):
        self._path, self._file = path, open_tar(path)
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from an offset on; fewer if the file ends before."""
        if (offset, size) in self._cache:
            return self._cache[offset, size]
        if offset < self._file.tell():
            self._file.close()
            self._file = open_tar(self._path)
        self._file.seek(offset)
        content = self._cache[offset, size] = self._file.read(size)
        while sum(map(len, self._cache.values())) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return content


@lru_cache(MAX_OPEN_FILES)
def _compressed(path: Path, *state: int) -> CompressedFile:
    return CompressedFile(path)


def is_named_as_tar(name: str) -> bool:
    """Return whether a file name is that of a tar file, plain or compressed."""
    return name.lower().endswith(SUFFIXES)


def _without_suffix(name: str) -> str:
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(suffix)]


def open_tar(path: Path) -> BinaryIO:
    """Open the content of a tar file, decompressed as it is read; raise OSError."""
    opener = _opener(path)
    return open(path, "rb") if opener is None else opener(path)


def _open_zstd(path: Path) -> Any:
    decompressor = zstandard.ZstdDecompressor()
    return decompressor.stream_reader(open(path, "rb"), read_across_frames=True)


MAGIC = {b"\x1f\x8b": gzip.open, b"\x28\xb5\x2f\xfd": _open_zstd}
MAGIC |= {b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def _opener(path: Path) -> Any:
    """Return the function that decompresses a file, by its first bytes; None for a plain one."""
    with open(path, "rb") as file:
        start = file.read(6)
    return next((opener for magic, opener in MAGIC.items() if start.startswith(magic)), None)


@contextmanager
def reading_tar(path: Path) -> Iterator[None]:
    """Raise CdlError instead of the exceptions of corrupted tar files."""
    try:
        yield
    except CdlError:
        raise
    except (*CORRUPTION, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk error; those of bz2 and gzip have no number
        raise CdlError(f"{path} cannot be read as a tar file: {error}") from error


class _Header(tarfile.TarInfo):
    """Header of a member; a corrupted one is an error, where tarfile would end the list."""

    @classmethod
    def fromtarfile(cls, tar: _Tar) -> _Header:
        """Read the next header; after an end, anything but another tar file is padding."""
        try:
            header = super().fromtarfile(tar)
        except EOFHeaderError:
            tar.ended = True
            raise
        except PADDING as error:
            if tar.ended:
                raise EmptyHeaderError from error
            raise tarfile.ReadError(
                f"it is corrupted at byte {tar.offset}, or truncated"
            ) from error
        tar.ended = False
        return header


class _Tar(tarfile.TarFile):
    """One tar file, or several in a row.

    Attributes:
        ended: True between the end block of a tar file and the next tar file.
    """

    tarinfo = _Header
    ignore_zeros = True
    ended = False


def list_members(path: Path) -> dict[str, TarMember | str]:
    """List the files of a tar file, or of several in a row.

    Of two members of one name the last one counts, as in extraction; links are followed.

    Returns:
        members by name, or error messages of those that cannot be read; sorted by name, or by
        offset in a compressed file.

    Raises:
        CdlError, OSError: if the tar file cannot be read.
    """
    infos: dict[str, tarfile.TarInfo] = {}
    with reading_tar(path), open_tar(path) as file, _Tar.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            if info.size < 0:
                raise tarfile.ReadError(f"{info.name} has a size of {info.size}")
            name = posixpath.normpath(info.name)
            if not (info.islnk() and posixpath.normpath(info.linkname) == name):
                infos[name] = info
    compressed = _opener(path) is not None
    members = {
        name: _member(path, name, infos, compressed)
        for name in sorted(infos)
        if not infos[name].isdir()
    }
    if not compressed:
        return members
    return dict(sorted(members.items(), key=lambda item: getattr(item[1], "offset", 0)))


def _member(
    archive: Path, name: str, infos: Mapping[str, tarfile.TarInfo], compressed: bool
) -> TarMember | str:
    """Return a member, or the one that a link leads to; or an error message."""
    path, info, passed = f"{archive}/{name}", infos[name], {name}
    if name.startswith(("/", "../")) or "\0" in name:
        return f"{path} has a name that leads out of the tar file"
    target = name
    while info.islnk() or info.issym():
        folder = posixpath.dirname(target) if info.issym() else ""
        target = posixpath.normpath(posixpath.join(folder, info.linkname))
        if target in passed or target not in infos:
            return f"{path} is a link to {target}, which is not in the tar file"
        passed.add(target)
        info = infos[target]
    if not info.isfile():
        return f"{path} is no regular file"
    if info.issparse():
        return f"{path} is stored as a sparse file: pack it without --sparse"
    if compressed and info.size > MAX_MEMBER_BYTES:
        return f"{path} has {info.size} bytes: unpack the tar file"
    return TarMember(archive, name, info.offset_data, info.size)


def name_prefixes(archives: list[Path]) -> dict[Path, PurePosixPath]:
    """Return different prefixes for the members of tar files.

    They are the paths of the tar files from their common folder, without suffix if those differ.
    """
    base = os.path.commonpath([archive.parent for archive in archives])
    paths = {path: PurePosixPath(os.path.relpath(path, base)) for path in archives}
    short = {path: name.with_name(_without_suffix(name.name)) for path, name in paths.items()}
    return short if len({*short.values()}) == len(short) else paths
