"""What a command is given, made into a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode

from cdl_d2.d2.config_files import read_config, trust_program
from cdl_d2.d2.data import multitask_datasets, voc_datasets
from cdl_d2.d2.data.class_datasets import register_class_folder
from cdl_d2.d2.data.coco_datasets import register_dataset
from cdl_d2.d2.data.label_datasets import register_label_folder
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError


@dataclass(frozen=True)
class RunConfig:
    """A config file, KEY VALUE overrides, and data sets to register: in every process anew.

    Attributes:
        file: see read_config.
        register, register_voc, register_classes, register_labels, register_multitask: see
            register_datasets.
    """

    file: str
    overrides: Sequence[str] = ()
    register: Sequence[tuple[str, str, str]] = ()
    register_voc: Sequence[tuple[str, str, str]] = ()
    register_classes: Sequence[tuple[str, str]] = ()
    register_labels: Sequence[tuple[str, str, str]] = ()
    register_multitask: Sequence[tuple[str, str, str, str]] = ()

    def load(self) -> CfgNode:
        """The config; registers the data sets.

        Raises:
            FileNotFoundError: if a file does not exist.
            CdlError: for a key that does not exist, a value of another type, a bad data set, or a
                MODEL.DEVICE that is not there.
        """
        register_datasets(
            self.register,
            self.register_voc,
            self.register_classes,
            self.register_labels,
            self.register_multitask,
        )
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


def register_datasets(
    register: Sequence[tuple[str, str, str]] = (),
    register_voc: Sequence[tuple[str, str, str]] = (),
    register_classes: Sequence[tuple[str, str]] = (),
    register_labels: Sequence[tuple[str, str, str]] = (),
    register_multitask: Sequence[tuple[str, str, str, str]] = (),
) -> None:
    """Make data sets known under names that configs can use.

    Args:
        register: in COCO format, see register_dataset.
        register_voc: see register_voc.
        register_classes: see register_class_folder.
        register_labels: see register_label_folder.
        register_multitask: see register_multitask.

    Raises:
        FileNotFoundError, CdlError: for a bad data set, or a name that is taken.
    """
    known = {
        register_dataset: register,
        voc_datasets.register_voc: register_voc,
        register_class_folder: register_classes,
        register_label_folder: register_labels,
        multitask_datasets.register_multitask: register_multitask,
    }
    for function, datasets in known.items():
        for dataset in datasets:
            function(*dataset)
