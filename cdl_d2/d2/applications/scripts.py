"""Scripts written for Detectron2, run with this package's config keys, models and data sets.

Detectron2, while it is imported in any process, calls `setup_environment` of the module that the
environment variable DETECTRON2_ENV_MODULE names, here `cdl_d2.d2`. This module imports nothing of
Detectron2 before that.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from cdl_d2.errors import CdlError

DATASETS = "CDL_DATASETS"  # environment variable: argument of register_datasets, as JSON
PROJECT = "CDL_PROJECT"  # environment variable: the former DETECTRON2_ENV_MODULE
CONFIG_FILE = "--config-file"  # of all of Detectron2's scripts
ENV_MODULE, PACKAGE = "DETECTRON2_ENV_MODULE", "cdl_d2.d2"


def setup_environment() -> None:
    """Add this package's keys to Detectron2's defaults, register data sets, set up the project.

    The data sets are those of CDL_DATASETS, the project is the module of CDL_PROJECT.
    """
    from detectron2.config.defaults import _C

    from cdl_d2.d2.config import add_cdl_config
    from cdl_d2.d2.tasks import register_datasets

    add_cdl_config(_C)
    register_datasets(json.loads(os.environ.get(DATASETS, "{}")))
    set_up_project(os.environ.get(PROJECT, ""))


@contextmanager
def without_project() -> Iterator[str]:
    """Hide DETECTRON2_ENV_MODULE in a block that imports Detectron2, and yield it.

    That module may import this package, which is not complete yet. It is empty if it is not set,
    or if Detectron2 has been imported before, which has called it.
    """
    project = "" if "detectron2" in sys.modules else os.environ.pop(ENV_MODULE, "")
    try:
        yield project
    finally:
        if project:
            os.environ[ENV_MODULE] = project


def set_up_project(project: str) -> None:
    """Call `setup_environment` of a module or file, as Detectron2 does; do nothing if empty.

    Raises:
        CdlError: if there is no such module.
    """
    from detectron2.utils.env import setup_custom_environment

    if not project:
        return
    try:
        setup_custom_environment(project)
    except ModuleNotFoundError as error:
        if error.name != project.partition(".")[0]:
            raise
        raise CdlError(
            f"there is no module {project}, which {ENV_MODULE} names: add its folder to PYTHONPATH"
        ) from error


def run_script(
    script: Path, words: Sequence[str], datasets: Mapping[str, Sequence[Sequence[str]]]
) -> None:
    """Run a script in this process, as `python SCRIPT WORDS` would, with the environment set up.

    Processes that it starts inherit the environment.

    Args:
        script: a Python file.
        words: its arguments; the value of `--config-file` may be a name, as find_config takes it.
        datasets: data sets to register, as register_datasets takes them.

    Raises:
        FileNotFoundError: if there is no such script or config.
        CdlError: for a script that is no Python file, or a bad data set.
        RuntimeError: from an OSError or ImportError of the script, to keep its traceback.
        SystemExit, Exception: of the script.
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
    if (project := os.environ.get(ENV_MODULE)) not in (None, "", PACKAGE):
        os.environ[PROJECT] = project  # set up in this process already
    os.environ[ENV_MODULE] = PACKAGE
    sys.path.insert(0, str(script.absolute().parent))
    sys.argv = [str(script), *words]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except CdlError:
        raise
    except (OSError, ImportError) as error:
        raise RuntimeError(f"{script} failed") from error
