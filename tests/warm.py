"""Commands and scripts in forks of one process that has imported everything: starting a process of
their own takes seconds, most of it for imports.

`serve` runs in that process; CLIENT is the program that a shell calls in place of `cdl` or
`python`, and passes on its words, folder, variables CDL_..., standard streams and exit status.
"""

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import traceback
from dataclasses import replace

CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
ours = {k: v for k, v in os.environ.items() if k.startswith("CDL_")}
words = json.dumps([os.getcwd(), ours, *sys.argv[2:]]).encode()
socket.send_fds(server, [words], [0, 1, 2])
sys.exit(int(server.recv(16)))
"""
LARGEST = 1 << 16  # bytes of words


def command(address: str, *words: object) -> list[str]:
    """What runs a program in a fork of the process that serves at an address."""
    return [sys.executable, "-I", "-S", "-c", CLIENT, address, *map(str, words)]


def script(address: str, text: str, *words: object) -> str:
    """Run a script in a fork of that process; what it prints.

    Args:
        words: its `sys.argv[1:]`.
    """
    given = f"import sys; sys.argv[1:] = {[*map(str, words)]!r}\n"
    done = subprocess.run(
        command(address, "python"), input=given + text, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shorten_fits() -> None:
    """Fit bridges to few images from now on; the tests' data sets have hardly more.

    To be called before what builds configs and trainers is imported.
    """
    from cdl_d2.nn.bridge import bridge_fit

    bridge_fit.FIT_IMAGES = 8


def shorten_conversions() -> None:
    """Fit networks of torchvision and timm to few images, and train them with small batches."""
    from cdl_d2.cli.conversion_options import ConversionOptions

    distillation = ConversionOptions.distillation
    ConversionOptions.distillation = lambda options: replace(distillation(options), batch_size=2)
    importlib.import_module("cdl_d2.conversion.convert").FIT_IMAGES = 2


def serve(address: str) -> None:
    """Answer clients, one at a time, until this process is ended."""
    shorten_fits()
    shorten_conversions()
    from compressai.zoo import image  # noqa: F401

    import cdl_d2.cli.main
    import cdl_d2.tv

    if importlib.util.find_spec("detectron2"):
        import cdl_d2.d2  # noqa: F401
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        gc.freeze()  # else every fork copies the pages of all objects
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            with client:
                words, streams, _, _ = socket.recv_fds(client, LARGEST, 3)
                child = os.fork()
                if not child:
                    _run(*json.loads(words), streams=streams)
                for stream in streams:
                    os.close(stream)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(ConnectionError):  # of a client that was killed
                    client.sendall(str(status % 256).encode())


def _run(
    folder: str, variables: dict[str, str], program: str, *words: str, streams: list[int]
) -> None:
    """`cdl WORDS`, or a script from standard input."""
    status = 1
    try:
        os.chdir(folder)
        os.environ.update(variables)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        if program == "cdl":
            status = sys.modules["cdl_d2.cli.main"].main(words)
        else:
            exec(compile(sys.stdin.read(), "script", "exec"), {"__name__": "__main__"})
            status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
