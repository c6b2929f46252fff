"""Errors that are not bugs: a command prints them as one line, without a traceback."""

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class CdlError(ValueError):
    """Invalid input; the message names the value, what was expected, and what to do."""


class BitstreamError(CdlError):
    """Bitstream that is corrupted, hostile, or of another codec."""


class MisalignedImageError(CdlError):
    """The image in a bitstream does not begin on a whole latent position."""


class MissingPackageError(CdlError, ImportError):
    """Required package that is not installed; the message says how to install it."""


class MissingWeightsError(CdlError):
    """Pretrained weights that are not on this machine and cannot be downloaded."""


class SystemNotSupportedError(CdlError, ImportError):
    """Operating system that is not supported."""


class DivergedError(CdlError, FloatingPointError):
    """Training whose loss is no longer finite."""


class NoMemoryError(CdlError):
    """Out of memory; a smaller batch or image may fit."""


def check_system() -> None:
    """Raise SystemNotSupportedError on Windows."""
    if sys.platform == "win32":
        raise SystemNotSupportedError(
            "cdl_d2 runs on Linux and macOS, not on Windows: use the Windows Subsystem for Linux"
        )


def check_choice(what: str, value: object, choices: Collection[object]) -> None:
    """Raise CdlError, which says what the value is, unless it is one of the choices."""
    if value not in choices:
        raise CdlError(f"{what} {value!r} is not one of {', '.join(map(str, choices))}")


@contextmanager
def with_advice(advice: str) -> Iterator[None]:
    """Append advice to the message of a CdlError or FileNotFoundError inside the block."""
    try:
        yield
    except (CdlError, FileNotFoundError) as error:
        raise type(error)(f"{error}: {advice}") from error


@contextmanager
def within_memory() -> Iterator[None]:
    """Convert out-of-memory errors of Python and PyTorch in a block to NoMemoryError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        raise memory_error(error) from error


def memory_error(error: MemoryError | RuntimeError) -> NoMemoryError:
    """Return the NoMemoryError for an error; raise the error if it has another reason."""
    if isinstance(error, MemoryError) or "allocate" in str(error):
        return NoMemoryError("out of memory")
    raise error


@contextmanager
def imports_of_extra(name: str) -> Iterator[None]:
    """Raise MissingPackageError, which names the extra `cdl_d2[name]`, if an import fails."""
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(f"{error}: pip install 'cdl_d2[{name}]'") from error
