"""Programs written for Detectron2 alone, on this package's configs.

Detectron2 calls `setup_environment` of the module that DETECTRON2_ENV_MODULE names while it is
imported, in every process: with `DETECTRON2_ENV_MODULE=cdl_d2.d2` its configs have our keys, and
its registries our models. Nothing of Detectron2 is imported here before that.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from cdl_d2.errors import CdlError

DATASETS = "CDL_DATASETS"  # environment variable: argument of register_datasets, as JSON
PROJECT = "CDL_PROJECT"  # another: a module that DETECTRON2_ENV_MODULE named before
CONFIG_FILE = "--config-file"  # of all of Detectron2's scripts
ENV_MODULE, THIS = "DETECTRON2_ENV_MODULE", "cdl_d2.d2"


def setup_environment() -> None:
    """Add this package's keys to what Detectron2's `get_cfg` gives, register the data sets that
    CDL_DATASETS names, and set up the module that CDL_PROJECT names."""
    from detectron2.config.defaults import _C
    from detectron2.utils.env import setup_custom_environment

    from cdl_d2.d2.config import add_cdl_config
    from cdl_d2.d2.tasks import register_datasets

    add_cdl_config(_C)
    register_datasets(json.loads(os.environ.get(DATASETS, "{}")))
    if os.environ.get(PROJECT):
        setup_custom_environment(os.environ[PROJECT])


def run_script(
    script: Path, words: Sequence[str], datasets: Mapping[str, Sequence[Sequence[str]]]
) -> None:
    """Run a script in this process, as `python SCRIPT WORDS` would, in that environment; processes
    that it starts have it too.

    Args:
        words: its arguments; a config behind `--config-file` may be given as find_config takes it.
        datasets: see register_datasets.

    Raises:
        FileNotFoundError: if there is no such script or config.
        CdlError: for a script that is no Python file, or data sets that cannot be used.
        SystemExit: what the script raises.
        Exception: likewise; an OSError or ImportError as the cause of a RuntimeError, since its
            traceback is what the script's author needs.
    """
    from cdl_d2.d2.config_files import find_config

    if not script.is_file():
        raise FileNotFoundError(f"there is no script {script}")
    if script.suffix != ".py":
        raise CdlError(f"{script} is no Python script (.py)")
    words = list(words)
    for at, (option, name) in enumerate(pairwise(words), start=1):
        if option == CONFIG_FILE:
            words[at] = str(find_config(name))
    os.environ[DATASETS] = json.dumps(dict(datasets))
    setup_environment()
    if (project := os.environ.get(ENV_MODULE)) not in (None, "", THIS):
        os.environ[PROJECT] = project  # here it is set up already
    os.environ[ENV_MODULE] = THIS
    sys.path.insert(0, str(script.absolute().parent))
    sys.argv = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except CdlError:
        raise
    except (OSError, ImportError) as error:
        raise RuntimeError(f"{script} failed") from error
