"""The errors that are not bugs: a command prints them as one line, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class CdlError(ValueError):
    """Something given cannot be used; the message says what, what was expected, and what to do."""


class BitstreamError(CdlError):
    """A bitstream is damaged, hostile, or another codec's."""


class MisalignedImageError(CdlError):
    """The image in a bitstream does not begin on a whole latent position."""


class MissingPackageError(CdlError, ImportError):
    """A package that is needed for this is not installed; the message says how to install it."""


class SystemNotSupportedError(CdlError, ImportError):
    """The operating system is not one that this package runs on."""


class DivergedError(CdlError, FloatingPointError):
    """A training's loss is not finite any more."""


class NoMemoryError(CdlError):
    """There is not enough memory for something; with less of it at a time there may be."""


def check_system() -> None:
    """Raise SystemNotSupportedError on Windows."""
    if sys.platform == "win32":
        raise SystemNotSupportedError(
            "cdl_d2 runs on Linux and macOS, not on Windows: use the Windows Subsystem for Linux"
        )


@contextmanager
def with_advice(advice: str) -> Iterator[None]:
    """Append advice to the message of a CdlError or FileNotFoundError inside the block."""
    try:
        yield
    except (CdlError, FileNotFoundError) as error:
        raise type(error)(f"{error}: {advice}") from error


@contextmanager
def within_memory() -> Iterator[None]:
    """Around work on one file of many: a lack of memory is an error like others.

    Raises:
        NoMemoryError: for Python's, and for what PyTorch says instead.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        raise memory_error(error) from error


def memory_error(error: MemoryError | RuntimeError) -> NoMemoryError:
    """Return the NoMemoryError for an error; raise the error if it has another reason."""
    if isinstance(error, MemoryError) or "allocate" in str(error):
        return NoMemoryError("there is not enough memory for it")
    raise error


@contextmanager
def imports_of_extra(name: str) -> Iterator[None]:
    """Around imports of packages that come with an extra of this one, `cdl_d2[name]`.

    Raises:
        MissingPackageError: if one is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{error}: this needs more packages, pip install 'cdl_d2[{name}]'"
        ) from error
