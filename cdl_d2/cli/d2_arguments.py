"""What the commands in tools/ have in common."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode

from cdl_d2.d2.config import read_config
from cdl_d2.d2.data.class_datasets import register_class_folder
from cdl_d2.d2.data.coco_datasets import register_dataset
from cdl_d2.d2.data.label_datasets import register_label_folder


def new_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--config-file`, whose help keeps the description's line breaks."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    return parser


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Config overrides as the last arguments, as Detectron2's own commands take them."""
    parser.add_argument("opts", nargs="*", help="config overrides, KEY VALUE ...")


def add_registration(parser: argparse.ArgumentParser) -> None:
    """`--register`, `--register-classes` and `--register-labels`, for data sets of one's own."""
    kinds = {
        "--register": (
            ("NAME", "ANNOTATIONS.json", "IMAGE_DIR"),
            "make a COCO-format data set known under NAME; repeatable",
        ),
        "--register-classes": (
            ("NAME", "FOLDER"),
            "make a folder with a folder of images for each class known under NAME; repeatable",
        ),
        "--register-labels": (
            ("NAME", "IMAGE_DIR", "LABEL_DIR"),
            "make images with label maps (PNG, of the same names) known under NAME; repeatable",
        ),
    }
    for option, (words, text) in kinds.items():
        parser.add_argument(
            option, nargs=len(words), action="append", default=[], metavar=words, help=text
        )


def load_config(args: argparse.Namespace) -> CfgNode:
    """The config of `--config-file` and the overrides; registers the data sets that are given.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: for a key that does not exist, a value of another type, or a bad data set.
    """
    for dataset in getattr(args, "register", []):
        register_dataset(*dataset)
    for dataset in getattr(args, "register_classes", []):
        register_class_folder(*dataset)
    for dataset in getattr(args, "register_labels", []):
        register_label_folder(*dataset)
    return read_config(args.config_file, args.opts)
