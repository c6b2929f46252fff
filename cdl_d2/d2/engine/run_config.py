"""Configs of commands: a file, overrides, and data sets to register."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from detectron2.config import CfgNode

from cdl_d2.d2.config_files import read_config, trust_program
from cdl_d2.d2.tasks import register_datasets
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class RunConfig:
    """Description of a run, from which every process loads the config and registers the data sets.

    Attributes:
        file: path or name of a config, as read_config takes it.
        overrides: KEY VALUE pairs.
        datasets: data sets to register, as register_datasets takes them.
    """

    file: str
    overrides: Sequence[str] = ()
    datasets: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    def load(self) -> CfgNode:
        """Register the data sets and return the config.

        Raises:
            FileNotFoundError: if a file does not exist.
            CdlError: for a key that does not exist, a value of another type, a bad data set, or a
                MODEL.DEVICE that is not available.
        """
        register_datasets(self.datasets)
        cfg = read_config(self.file, self.overrides)
        if cfg.MODEL.TEACHER.CONFIG_FILE in self.overrides:  # the user's own words
            trust_program(cfg.MODEL.TEACHER.CONFIG_FILE)
        check_device(cfg)
        return cfg


def check_device(cfg: CfgNode) -> None:
    """Raise CdlError, naming the key, if MODEL.DEVICE cannot be used."""
    try:
        usable_device(cfg.MODEL.DEVICE)
    except CdlError as error:
        raise CdlError(f"{error}: set MODEL.DEVICE, for example to cpu") from error


def with_usable_device(cfg: CfgNode) -> CfgNode:
    """Return a config with MODEL.DEVICE replaced by the CPU if it is a GPU and there is none.

    Configs of Detectron2 name a GPU by default.

    Raises:
        CdlError: if the device is another that cannot be used.
    """
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        check_device(cfg)
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return cfg
