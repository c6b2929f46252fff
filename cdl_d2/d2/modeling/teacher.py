"""Builds the frozen RGB teacher of MODEL.TEACHER with its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from torch import nn

from cdl_d2.d2.building import build_model
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.config import add_cdl_config, without_initialization
from cdl_d2.d2.config_files import find_config, is_trusted, read_config, trust_program
from cdl_d2.d2.detectron2_zoo import import_model_zoo, zoo_weights
from cdl_d2.errors import CdlError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE


def build_teacher(
    cfg: CfgNode, check: Callable[[CfgNode, CfgNode], None] = lambda ours, theirs: None
) -> nn.Module:
    """The teacher of a student's config, with all its weights and its `channel_order`.

    Args:
        check: raises CdlError unless a student's and a teacher's config can be compared; a
            LazyConfig is not shown to it.

    Raises:
        FileNotFoundError: if its config or weights do not exist.
        CdlError: if it is not named, does not look at original images, does not fit the student,
            or its weights are incomplete.
    """
    if is_lazy(cfg):
        network, named = _build_lazy_network(cfg)
        output = ""
    else:
        theirs = teacher_config(cfg)
        check(cfg, theirs)
        network, named, output = None, theirs.MODEL.WEIGHTS, theirs.OUTPUT_DIR
    file = find_config(cfg.MODEL.TEACHER.CONFIG_FILE)
    weights = cfg.MODEL.TEACHER.WEIGHTS or trained_weights(file, output) or named
    if not weights:
        raise CdlError(
            f"the teacher {cfg.MODEL.TEACHER.CONFIG_FILE} has no weights, neither "
            f"{WEIGHTS_FILE} beside it nor in {output or 'its OUTPUT_DIR'}: train it, or give "
            "MODEL.TEACHER.WEIGHTS"
        )
    if "://" not in weights and not Path(weights).is_file():
        raise FileNotFoundError(
            f"there is no file {weights} with the teacher's weights: check MODEL.TEACHER.WEIGHTS"
        )
    network = network or build_pixel_network(theirs)
    load_all_weights(network, weights)
    return network


def trained_weights(file: Path, output: str) -> str:
    """Those that a training of a config left beside it or in the OUTPUT_DIR that it names, or that
    Detectron2's model zoo has of it; empty if there are none.

    Args:
        file: of the config.
        output: its OUTPUT_DIR; empty for none.

    Raises:
        FileNotFoundError: if a training's own copy of its config has none beside it.
    """
    beside = file.parent / WEIGHTS_FILE
    if file.name == CONFIG_FILE and not beside.is_file():
        raise FileNotFoundError(
            f"there are no weights {beside} beside their config: end that training, or name others "
            "(MODEL.TEACHER.WEIGHTS, or CONFIG:WEIGHTS on the command line)"
        )
    for weights in (beside, Path(output or file.parent) / WEIGHTS_FILE):
        if weights.is_file():
            return str(weights)
    return zoo_weights(file)


def teacher_of(config_file: str, weights: str = "") -> Callable[[], nn.Module]:
    """Return build_teacher for a student without a config, such as one of a LazyConfig. A teacher's
    LazyConfig that is named here is trusted, and run.

    Args:
        config_file, weights: as MODEL.TEACHER says.
    """
    cfg = get_cfg()
    add_cdl_config(cfg)
    trust_program(config_file)
    cfg.MODEL.TEACHER.CONFIG_FILE, cfg.MODEL.TEACHER.WEIGHTS = config_file, weights
    cfg.MODEL.DEVICE = "cpu"  # a student moves it to its own
    return partial(build_teacher, cfg)


def build_pixel_network(cfg: CfgNode) -> nn.Module:
    """A model on images that knows the order of channels which it was trained with."""
    network = build_model(cfg)
    network.channel_order = cfg.INPUT.FORMAT
    return network


def is_lazy(cfg: CfgNode) -> bool:
    """Tell whether the teacher is a LazyConfig of Detectron2, a Python file."""
    return cfg.MODEL.TEACHER.CONFIG_FILE.endswith(".py")


def build_untrained_teacher(cfg: CfgNode) -> nn.Module:
    """Build the teacher of a student's config, YAML or LazyConfig, with random weights.

    Raises:
        FileNotFoundError, CdlError: see build_teacher.
    """
    if is_lazy(cfg):
        return _build_lazy_network(cfg)[0]
    return build_pixel_network(teacher_config(cfg))


def _build_lazy_network(cfg: CfgNode) -> tuple[nn.Module, str]:
    """Run the teacher's LazyConfig; return its model, and where its weights are.

    Raises:
        FileNotFoundError: if there is no such file.
        CdlError: if the file is not to be trusted, see is_trusted; or is no LazyConfig.
    """
    path = find_config(cfg.MODEL.TEACHER.CONFIG_FILE)
    if not is_trusted(path):
        raise CdlError(
            f"the teacher {path} is a Python program, and a config may not choose which to run: "
            f"if you trust it, give MODEL.TEACHER.CONFIG_FILE {path} on the command line"
        )
    import_model_zoo()  # which such files import
    try:
        lazy = LazyConfig.load(str(path))
        network = instantiate(lazy.model).to(cfg.MODEL.DEVICE)
    except Exception as error:  # whatever a Python file raises
        raise CdlError(f"{path} is no LazyConfig of a detector ({error!r})") from error
    return network, lazy.get("train", {}).get("init_checkpoint", "")


def teacher_config(cfg: CfgNode) -> CfgNode:
    """The config that MODEL.TEACHER.CONFIG_FILE of a student's config names, on its device; see
    read_config for where it is looked for.

    Raises:
        FileNotFoundError: if it is nowhere.
        CdlError: if none is named, or it is not of a network on original images.
    """
    name = cfg.MODEL.TEACHER.CONFIG_FILE
    if not name:
        raise CdlError("knowledge transfer needs a teacher: give MODEL.TEACHER.CONFIG_FILE")
    if is_lazy(cfg):
        raise CdlError(
            f"the teacher {name} is a LazyConfig, whose values have no keys: give a YAML as "
            "MODEL.TEACHER.CONFIG_FILE"
        )
    theirs = without_initialization(read_config(name))
    theirs.MODEL.DEVICE = cfg.MODEL.DEVICE
    domain = theirs.INPUT.DOMAIN
    if domain != "image":
        raise CdlError(f"the teacher {name} looks at domain {domain!r}, not at original images")
    return theirs
