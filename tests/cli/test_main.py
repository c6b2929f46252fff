"""How commands end: what is printed where, and the exit status."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cyclopts import App

from cdl_d2.cli import main as cli
from cdl_d2.errors import CdlError
from tests.commands import ROOT, forked, in_checkout, output_of, refused, run

COMMANDS = [
    *("quickstart", "train", "train-torchvision", "visualize", "convert", "export", "count"),
    "predict",
    *("compare", "run-script"),
    *("data synthesize", "data import-celebamask", "data encode", "data verify"),
    *("latents statistics", "latents select"),
    *("codec train", "codec evaluate", "codec compress", "codec decompress", "codec info"),
    "codec conventional",
    *("bench model", "bench files", "bench storage", "bench training", "bench predict"),
    "bench startup",
    *("zoo list", "zoo show", "zoo download", "zoo verify", "zoo add"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_of_the_command_and_no_switch_that_is_on(command):
    text = output_of(*command.split(), "--help")
    assert text.count(f" cdl {command} ") >= 2  # and the usage
    words = " ".join(text.replace("│", " ").split())
    assert "[default: True]" not in words  # no --no-NAME could turn it off


def test_help_of_all_commands_needs_no_slow_package():
    slow = {"torch", "numpy", "pydantic", "tqdm", "markdown_it"}
    code = (
        "import sys; from cdl_d2.cli.main import main; status = main(['--help']);"
        f"sys.exit(status or ' '.join({slow} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, **in_checkout())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["codec", "nothing"],
        ["codec", "info"],
        ["codec", "info", "--nothing"],
        ["count", "nowhere.yaml"],
        ["data", "synthesize", "--task", "nothing", "--output", "x", "--count", "1"],
        ["data", "synthesize", "--task", "detection", "--output", "x", "--count", "many"],
    ],
)
def test_words_that_cannot_be_used_are_one_line(words):
    if "count" in words[:1] and not importlib.util.find_spec("detectron2"):
        pytest.skip("Detectron2 is not installed")
    _, _, errors = run(*words)
    assert len(errors.splitlines()) == 1
    assert refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config-file", "x.yaml"],
        ["convert", "x", "images", "--output", "x", "--codec", "x", "--quality", 1],
        ["count", "x.yaml"],
        ["visualize", "x.yaml"],
        ["bench", "model", "x.yaml"],
        ["bench", "training", "x.yaml"],
        ["latents", "statistics", "x.yaml", "--output", "x"],
    ],
)
def test_a_misspelled_option_is_not_a_change_of_the_config(words):
    assert "--nothing" in refused(*words, "--nothing", 3)
    assert "--nothing" in refused(*words, "SOLVER.BASE_LR", -1, "--nothing")


IMAGE = "cdl_d2/model_zoo/samples/nuclei/images/val_0001.png"
CODEC = ["--codec", "tiny-bmshj2018-hyperprior", "--quality", 2]
TRAIN = ["codec", "train", "IMAGES", *CODEC, "--lmbda", 0.01, "--iterations", 1]
ENCODE = ["data", "encode", "--images", "IMAGES", *CODEC]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["codec", "compress", IMAGE, *CODEC, "--device", "zzz"], "zzz"),
        (["codec", "compress", IMAGE, *CODEC, "--device", "meta"], "meta"),
        ([*TRAIN, "--checkpoint-every", 0], "checkpoint-every"),
        ([*TRAIN, "--threads", -1], "threads"),
        ([*TRAIN, "--workers", -1], "workers"),
        ([*TRAIN, "--seed", -1], "seed"),
        ([*ENCODE, "--workers", -1], "workers"),
        ([*ENCODE, "--batch-size", 0], "batch-size"),
        ([*ENCODE, "--shard-size", 0], "shard-size"),
        (["predict", "nuclei-bridge", IMAGE, "--workers", -2], "workers"),
        (["data", "synthesize", "--task", "detection", "--count", -3], "count"),
        (["data", "synthesize", "--task", "detection", "--count", 1, "--seed", -3], "seed"),
    ],
)
def test_numbers_and_devices_that_cannot_be_used_are_one_line(words, named, tmp_path):
    (tmp_path / "images").mkdir()
    words = [tmp_path / "images" if word == "IMAGES" else word for word in words]
    assert named in refused(*words, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Failing(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


def _fail(rank, error):
    raise error


@pytest.fixture
def fake(monkeypatch):
    """Puts a command `cdl fake` in place of the real ones."""

    def put(function):
        app = App(name="cdl", suppress_keyboard_interrupt=False)
        app.command(function, name="fake")
        monkeypatch.setattr(cli, "app", app)

    return put


@pytest.mark.parametrize("how", ["here", "in a worker", "in a process"])
@pytest.mark.parametrize(
    "error", [CdlError("too small: enlarge it"), FileNotFoundError("no x.png")]
)
def test_a_mistake_is_one_line_wherever_it_is_noticed(fake, how, error):
    def command():
        if how == "in a worker":
            list(torch.utils.data.DataLoader(_Failing(error), num_workers=1))
        if how == "in a process":
            torch.multiprocessing.start_processes(_fail, (error,), start_method="fork")
        raise error

    fake(command)
    assert refused("fake") == f"cdl fake: {error}"


class _Killed(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_line(fake):
    fake(lambda: list(torch.utils.data.DataLoader(_Killed(), num_workers=1)))
    status, _, errors = run("fake")
    assert status == 1 and "worker" in errors and len(errors.splitlines()) == 1


def test_what_a_terminal_would_act_upon_is_escaped(fake):
    def command():
        raise CdlError("no \x1b[31m\x9b\u202e\udcff, but \u00e9")

    fake(command)
    assert refused("fake") == r"cdl fake: no \x1b[31m\x9b\u202e\udcff, but é"


def test_a_message_of_several_lines_becomes_one(fake):
    def command():
        raise CdlError("one\n  two")

    fake(command)
    assert refused("fake") == "cdl fake: one two"


@pytest.mark.parametrize("worker", [False, True])
def test_a_bug_keeps_its_traceback(fake, worker):
    def command():
        if worker:
            list(torch.utils.data.DataLoader(_Failing(ValueError("a bug")), num_workers=1))
        raise ValueError("a bug")

    fake(command)
    with pytest.raises(ValueError, match="a bug"):
        run("fake")


def test_a_package_that_is_missing_is_one_line(fake):
    def command():
        import package_that_is_missing  # noqa: F401

    fake(command)
    assert "package_that_is_missing" in refused("fake")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_quietly(tmp_path, number, status):
    words = ["data", "synthesize", "--task", "detection", "--count", "100000"]
    child = forked(*words, "--output", tmp_path / "x", errors=tmp_path / "errors")
    while not (tmp_path / "x").exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.sched_yield()
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors
    assert (number == signal.SIGTERM) or errors.endswith("cdl data synthesize: interrupted\n")


@pytest.mark.parametrize(
    ("module", "turned"), [("cdl_d2.cli.options", False), ("torch", False), ("torch", True)]
)
def test_ctrl_c_during_an_import_is_one_line(module, turned):
    """As the user presses it while a module is looked for; some turn it into an ImportError."""
    code = f"""
import builtins, os, signal, sys
from cdl_d2.cli.start import main

def find_and_load(name, *rest, found=builtins.__import__):
    if name == {module!r} and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if {turned}:
                raise ImportError("failed to import")
            raise
    return found(name, *rest)

builtins.__import__ = find_and_load
sys.exit(main({["codec", "evaluate", str(ROOT / Path(IMAGE).parent), *map(str, CODEC)]!r}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **in_checkout(),
    )
    assert done.returncode == 130, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.endswith(": interrupted\n")
