import subprocess
import sys

from tests.commands import in_checkout


def test_without_detectron2_it_says_what_is_missing():
    code = (
        "import sys; sys.modules['detectron2'] = None; from cdl_d2.cli.main import main;"
        "sys.exit(main(['run-script', 'train.py', '--config-file', 'mine.yaml']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, **in_checkout())
    assert done.returncode == 2
    assert done.stderr.startswith("cdl run-script: Detectron2 is not installed")
    assert done.stderr.count("\n") == 1
