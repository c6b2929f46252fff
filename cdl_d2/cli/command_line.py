"""How the commands in tools/ begin and end."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.multiprocessing import ProcessRaisedException

from cdl_d2.errors import CdlError

# Said while torchvision is imported; whoever runs a command can do nothing about it.
warnings.filterwarnings("ignore", message=".torch.jit.script. is deprecated")

EXPECTED = (FloatingPointError, ImportError, OSError, ProcessRaisedException, ValueError)


def exit_status(name: str, command: Callable[[], object]) -> int:
    """Run a command: bad input becomes a line on standard error and status 1, interruption 130.

    An error in one of several processes comes with that process's traceback; its last line says it.
    """
    signal.signal(signal.SIGTERM, _leave)  # an exception, so that nothing is left behind
    try:
        status = command()
    except EXPECTED as error:
        print(f"{name}: {_message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return status if isinstance(status, int) else 0


@contextmanager
def needed_packages(name: str) -> Iterator[None]:
    """Around a command's imports: a package that is missing becomes one line and status 1."""
    try:
        yield
    except ImportError as error:
        hint = "" if "install" in str(error) else ": install the packages that README.md names"
        print(f"{name}: {error}{hint}", file=sys.stderr)
        sys.exit(1)


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def usable_device(name: str) -> str:
    """The name of a device.

    Raises:
        ValueError: if there is no such device.
    """
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CdlError(f"device {name!r} cannot be used: {reason}") from error
    return name


def _message(error: Exception) -> str:
    """An error's text; of one that a loader's worker passes on, only what the worker said."""
    text = str(error)
    if text.startswith("Caught "):
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text
