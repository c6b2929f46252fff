"""Builds the frozen RGB teacher of MODEL.TEACHER with its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode, get_cfg, instantiate
from torch import nn

from cdl_d2.d2.building import build_model
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import add_cdl_config, without_initialization
from cdl_d2.d2.config_files import find_config, is_trusted, read_config, trust_program
from cdl_d2.d2.detectron2_zoo import zoo_weights
from cdl_d2.d2.lazy_config import run_lazy_config
from cdl_d2.errors import CdlError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE


def build_teacher(
    cfg: CfgNode, check: Callable[[CfgNode, CfgNode], None] = lambda cfg, teacher_cfg: None
) -> nn.Module:
    """Build the teacher of a student's config, with all its weights and its `channel_order`.

    Args:
        cfg: the student's config.
        check: function that raises CdlError unless the configs of student and teacher can be
            compared; it is not called for a LazyConfig.

    Raises:
        FileNotFoundError: if the teacher's config or weights do not exist.
        CdlError: if there is no teacher, it does not read original images or does not fit the
            student, or its weights are incomplete.
    """
    if is_lazy(cfg):
        network, default_weights = _build_lazy_network(cfg)
        output_dir = ""
    else:
        teacher_cfg = teacher_config(cfg)
        check(cfg, teacher_cfg)
        default_weights, output_dir = teacher_cfg.MODEL.WEIGHTS, teacher_cfg.OUTPUT_DIR
    file = find_config(cfg.MODEL.TEACHER.CONFIG_FILE)
    weights = cfg.MODEL.TEACHER.WEIGHTS or find_weights(file, output_dir) or default_weights
    if not weights:
        raise CdlError(
            f"the teacher {cfg.MODEL.TEACHER.CONFIG_FILE} has no weights, neither "
            f"{WEIGHTS_FILE} beside it nor in {output_dir or 'its OUTPUT_DIR'}: train it, or give "
            "MODEL.TEACHER.WEIGHTS"
        )
    if "://" not in weights and not Path(weights).is_file():
        raise FileNotFoundError(
            f"there is no file {weights} with the teacher's weights: check MODEL.TEACHER.WEIGHTS"
        )
    if not is_lazy(cfg):
        network = build_rgb_network(teacher_cfg)
    load_all_weights(network, weights)
    return network


def find_weights(file: Path, output_dir: str) -> str:
    """Return the weights of a config: a training's final ones, or those of Detectron2's model zoo.

    A training's weights are beside the config's file or in OUTPUT_DIR.

    Args:
        file: path of the config.
        output_dir: its OUTPUT_DIR; empty for none.

    Returns:
        a path or URL; empty if there are no weights.

    Raises:
        FileNotFoundError: if a training's own copy of its config has no weights beside it.
    """
    beside = file.parent / WEIGHTS_FILE
    if file.name == CONFIG_FILE and not beside.is_file():
        raise FileNotFoundError(
            f"there are no weights {beside} beside their config: end that training, or name others "
            "(MODEL.TEACHER.WEIGHTS, or CONFIG:WEIGHTS on the command line)"
        )
    for weights in (beside, Path(output_dir or file.parent) / WEIGHTS_FILE):
        if weights.is_file():
            return str(weights)
    return zoo_weights(file)


def teacher_of(config_file: str, weights: str = "") -> Callable[[], nn.Module]:
    """Return a function that builds a teacher, for a student of a LazyConfig.

    Args:
        config_file: the teacher's config; a LazyConfig is trusted, and executed.
        weights: path or URL of its weights; empty to find them by `find_weights`.
    """
    cfg = get_cfg()
    add_cdl_config(cfg)
    trust_program(config_file)
    cfg.MODEL.TEACHER.CONFIG_FILE, cfg.MODEL.TEACHER.WEIGHTS = config_file, weights
    cfg.MODEL.DEVICE = "cpu"  # a student moves it to its own device
    return partial(build_teacher, cfg)


def build_rgb_network(cfg: CfgNode) -> nn.Module:
    """Build a model on images, with the `channel_order` of its training."""
    network = build_model(cfg)
    network.channel_order = cfg.INPUT.FORMAT
    return network


def is_lazy(cfg: CfgNode) -> bool:
    """Return True if the teacher is a LazyConfig, a Python file."""
    return cfg.MODEL.TEACHER.CONFIG_FILE.endswith(".py")


def build_untrained_teacher(cfg: CfgNode) -> nn.Module:
    """Build the teacher of a student's config, YAML or LazyConfig, with random weights.

    Raises:
        FileNotFoundError, CdlError: if the teacher's config is missing, or none of an RGB model.
    """
    if is_lazy(cfg):
        return _build_lazy_network(cfg)[0]
    return build_rgb_network(teacher_config(cfg))


def _build_lazy_network(cfg: CfgNode) -> tuple[nn.Module, str]:
    """Execute the teacher's LazyConfig; return its model, and the path or URL of its weights.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if the file is not trusted, or is no LazyConfig.
    """
    path = find_config(cfg.MODEL.TEACHER.CONFIG_FILE)
    if not is_trusted(path):
        raise CdlError(
            f"the teacher {path} is a Python program, and a config may not choose which to run: "
            f"if you trust it, give MODEL.TEACHER.CONFIG_FILE {path} on the command line"
        )
    lazy = run_lazy_config(path)
    try:
        network = instantiate(lazy.model).to(cfg.MODEL.DEVICE)
    except Exception as error:  # whatever a Python file raises
        raise CdlError(f"{path} is no LazyConfig of a detector ({error!r})") from error
    return network, lazy.get("train", {}).get("init_checkpoint", "")


def teacher_config(cfg: CfgNode) -> CfgNode:
    """Return the config MODEL.TEACHER.CONFIG_FILE of a student's config, on the same device.

    Raises:
        FileNotFoundError: if there is no such config.
        CdlError: if the key is empty, or the config is not of an RGB model.
    """
    name = cfg.MODEL.TEACHER.CONFIG_FILE
    if not name:
        raise CdlError("knowledge transfer needs a teacher: give MODEL.TEACHER.CONFIG_FILE")
    if is_lazy(cfg):
        raise CdlError(
            f"the teacher {name} is a LazyConfig, whose values have no keys: give a YAML as "
            "MODEL.TEACHER.CONFIG_FILE"
        )
    teacher_cfg = without_initialization(read_config(name))
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    domain = teacher_cfg.INPUT.DOMAIN
    if domain != "image":
        raise CdlError(f"the teacher {name} reads domain {domain!r}, expected original images")
    return teacher_cfg
