"""Output of commands: results on standard output, failures on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdl_d2.errors import CdlError, within_memory
from cdl_d2.files import without_nan


def print_rows(rows: Sequence[dict[str, Any]], as_json: bool = False) -> None:
    """Print rows with the same keys in a Markdown table with three decimals, or in JSON."""
    if as_json:
        print(json.dumps([without_nan(row) for row in rows]))
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(_text(value) for value in row.values()) + " |")


def for_each(paths: Iterable[Path], action: Callable[[Path], object], command: str) -> int:
    """Process files, and report those that fail.

    Args:
        paths: the files.
        action: called with each path.
        command: name of the command in reports.

    Returns:
        exit status: 1 if a file failed.
    """
    from tqdm import tqdm

    failed = 0
    for path in tqdm(list(paths), unit="file"):
        try:
            with within_memory():
                action(path)
        except (CdlError, OSError) as error:
            failed += 1
            text = str(error) if str(path) in str(error) else f"{path}: {error}"
            report(command, text)
    return 1 if failed else 0


@contextmanager
def advice(text: str, error_class: type[Exception]) -> Iterator[None]:
    """Append what to do to the message of an error."""
    try:
        yield
    except error_class as error:
        raise type(error)(f"{error}: {text}") from error


def report(command: str, text: str) -> None:
    """Print a failure above a progress bar, without ending the command."""
    from tqdm import tqdm

    tqdm.write(one_line(f"{command}: {text}"), file=sys.stderr)


def one_line(text: str) -> str:
    """Return text as one line, with escapes for control and unprintable characters.

    File names and responses of servers may contain anything.
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else one_line(str(value))
