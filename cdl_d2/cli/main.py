"""The command `cdl`: parses words, calls a function, and returns an exit status.

0 success; 1 failed files or a failed disk (one line on standard error), or a bug (with its
traceback); 2 a user's mistake (one line); 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from cdl_d2.cli.bench import app as bench
from cdl_d2.cli.codec import app as codec
from cdl_d2.cli.compare import compare
from cdl_d2.cli.convert import convert
from cdl_d2.cli.count import count
from cdl_d2.cli.data import app as data
from cdl_d2.cli.export import export
from cdl_d2.cli.latents import app as latents
from cdl_d2.cli.output import one_line
from cdl_d2.cli.predict import predict
from cdl_d2.cli.quickstart import quickstart
from cdl_d2.cli.run_script import run_script
from cdl_d2.cli.train import train
from cdl_d2.cli.visualize import visualize
from cdl_d2.cli.zoo import app as zoo
from cdl_d2.errors import CdlError
from cdl_d2.files import is_disk_error

# Of torchvision, Detectron2 and torch; a user can do nothing about them.
warnings.filterwarnings("ignore", message=".torch.jit.script. is deprecated")
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

MISTAKES = (CdlError, OSError)
REMOVED_OPTIONS = {  # by command, or of all commands: what to write instead
    ("", "--meaning"): "write --quantization",
    ("codec compress", "--no-rest"): "write --base-only",
    ("codec evaluate", "--channel-groups"): "nothing replaces it",
    ("convert", "--images"): "write cdl convert MODEL INPUTS",
    ("convert", "--threshold"): "fine-tune the converted model with cdl train",
    ("convert", "--annotations"): "fine-tune the converted model with cdl train",
    ("visualize", "--config-file"): "write cdl visualize MODEL INPUTS",
    ("visualize", "--input"): "write cdl visualize MODEL INPUTS",
    ("latents statistics", "--config-file"): "write cdl latents statistics MODEL",
    ("latents select", "--config-file"): "write cdl latents select MODEL",
    ("count", "--config-file"): "write cdl count MODEL",
    ("compare", "--point"): "write cdl compare NAME=MODEL",
    ("bench model", "--config-file"): "write cdl bench model MODEL",
    ("bench files", "--run"): "write cdl bench files MODEL INPUTS --against MODEL",
    ("bench predict", "--streams"): "write cdl bench predict MODEL INPUTS --against MODEL",
    ("bench storage", "--images"): "write cdl bench storage INPUTS",
    ("bench storage", "--memory"): "nothing replaces it",
    ("bench storage", "--compare-with-compressai"): "nothing replaces it",
    ("quickstart", "--engine"): "write --backend",
}
RENAMED_COMMANDS = {"draw": "it is called 'synthesize' now"}
LOST_WORKER = "a worker was killed, maybe for lack of memory: use fewer workers"


def _shown_default(value: object) -> str | None:
    return None if value is None or value is False or value in ("", []) else str(value)


def _read_version() -> str:
    from importlib.metadata import version

    return version("cdl_d2")


app = App(
    name="cdl",
    help="Vision models on compressed latents. cdl COMMAND --help shows an example of each.",
    help_format="plaintext",  # of this list of commands: the import of a Markdown parser takes time
    version=_read_version,
    default_parameter=Parameter(  # no --no-resume; the last of repeated options counts
        negative="", show_default=_shown_default, allow_repeating=True
    ),
    suppress_keyboard_interrupt=False,
)
COMMANDS = (
    *(quickstart, train, convert, export, predict, data, codec),
    *(latents, visualize, count, bench, compare, zoo, run_script),
)
for _command in COMMANDS:
    if isinstance(_command, App):
        _command.help_format = "markdown"
        app.command(_command)
    else:
        app.command(_command, help_format="markdown")
app.command(  # by name, because it imports torch
    "cdl_d2.cli.train_torchvision:app",
    name="train-torchvision",
    help="Train or evaluate Mask or Faster R-CNN with torchvision alone.",
)


def main(arguments: Sequence[object] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: words of the command line; None for `sys.argv`.

    Raises:
        Exception: unchanged, if it is a bug.
    """
    words = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    interruption = Interruption()
    before = signal.signal(signal.SIGTERM, _leave)
    name = "cdl"
    try:
        name = " ".join(["cdl", *app.parse_commands(words)[0]])
        _check_removed_options(name, words)
        status = _call(words) or 0
        sys.stdout.flush()  # printing can fail on a full disk
        return status
    except (Exception, KeyboardInterrupt) as error:
        if interruption.occurred or isinstance(error, KeyboardInterrupt):
            print(f"{name}: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
        message = _mistake(error)
        if message is None:
            raise
        print(one_line(f"{name}: {message}"), file=sys.stderr)
        _drop_output()
        return 1 if is_disk_error(error) or message.startswith(LOST_WORKER) else 2
    finally:
        signal.signal(signal.SIGTERM, before)
        interruption.end()


class Interruption:
    """Record of Ctrl-C until `end`: an interrupted import may raise another error."""

    def __init__(self):
        self.occurred = False
        # In the background, Ctrl-C is ignored, and stays so.
        self._installed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._installed:
            signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        """Restore Python's handling of Ctrl-C."""
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: object) -> None:
        self.occurred = True
        raise KeyboardInterrupt


def _check_removed_options(name: str, words: Sequence[str]) -> None:
    """Raise CdlError if an option of the command has been removed."""
    options = {word.partition("=")[0] for word in words}
    for (command, option), advice in REMOVED_OPTIONS.items():
        is_of_all = not command and name != "cdl run-script"  # whose words are a script's
        if option in options and (is_of_all or name == f"cdl {command}"):
            raise CdlError(f"the option {option} is removed: {advice}")


def _call(words: Sequence[str]) -> int | None:
    return app(words, exit_on_error=False, print_error=False, result_action="return_value")


def _mistake(error: Exception) -> str | None:
    """Return the message for a user's mistake; None for a bug."""
    if isinstance(error, UnknownCommandError):
        word = error.unused_tokens[0]
        return f"there is no command {word!r}: {RENAMED_COMMANDS.get(word, 'see --help')}"
    text = str(error).strip()
    if isinstance(error, (CycloptsError, *MISTAKES)) and not text.startswith("Caught "):
        return text
    if text.startswith("DataLoader worker (pid"):
        return f"{LOST_WORKER}: {text.splitlines()[0]}"
    if isinstance(error, ImportError) and isinstance(error.__cause__, ImportError):
        error = error.__cause__
    if isinstance(error, ImportError) and not (error.name or "").startswith("cdl_d2"):
        return f"{error}: install the packages that README.md names"
    if not text.startswith(("Caught ", "-- Process ")):
        return None
    # Traceback from a worker process; its last line has the error's type and text.
    from pydoc import locate

    name, _, text = text.splitlines()[-1].partition(": ")
    kind = locate(name)
    return text if isinstance(kind, type) and issubclass(kind, MISTAKES) else None


def _drop_output() -> None:
    """Discard output that cannot be written, else Python reports it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(number: int, frame: object) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for each worker that ends
    sys.exit(128 + number)  # an exception, so that files are cleaned up


if __name__ == "__main__":
    sys.exit(main())
