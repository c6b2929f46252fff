"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from cdl_d2.errors import CdlError
from cdl_d2.tasks import TASKS, DatasetOption

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from cdl_d2.codec import CodecChoice
    from cdl_d2.d2.lazy_config import LazyModel

Pair = tuple[str, str]


def _check_no_option(_: object, words: str | tuple[str, ...]) -> None:
    """Raise ValueError if a word is a misspelled option."""
    for word in [words] if isinstance(words, str) else words:
        if word.startswith("--"):
            raise ValueError(f"There is no option {word}: see --help.")


# Config overrides are the last words, and may begin with a dash, as in SOLVER.BASE_LR -1.
Overrides = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        validator=_check_no_option,
        help="Changes of the config, KEY VALUE ...; the keys are in `cdl_d2/d2/config.py`.",
    ),
]
Model = Annotated[
    str,
    Parameter(
        help="Trained model: a name of `cdl zoo list`; the output folder of a training; a "
        "checkpoint, of Detectron2 with its `config.yaml` beside it; a config, `CONFIG.yaml` or a "
        "LazyConfig `CONFIG.py`, or `CONFIG:WEIGHTS`; one of Detectron2's model zoo, such as "
        "`COCO-Detection/retinanet_R_50_FPN_3x.yaml`; `torchvision/NAME` or `timm/NAME`, a "
        "pretrained RGB network by name; or `coco`, torchvision's Mask R-CNN."
    ),
]
Inputs = Annotated[
    str,
    Parameter(help="Images and bitstreams: files, folders, globs, tar files or latent stores."),
]
InputsAndOverrides = Annotated[
    str,
    Parameter(
        name="inputs",
        allow_leading_hyphen=True,
        validator=_check_no_option,
        help="Images: files, folders or globs; then changes of the config, KEY VALUE ...",
    ),
]
ConfigFile = Annotated[
    str,
    Parameter(
        help="YAML file, or config of this package, such as "
        "`detection/small/latent_mask_rcnn_small.yaml`."
    ),
]
Device = Annotated[
    str | None, Parameter(help="Device, `cpu` or `cuda`; default a GPU if there is one.")
]
Positive = Annotated[int, Parameter(validator=Number(gte=1))]
NotNegative = Annotated[int, Parameter(validator=Number(gte=0))]
Json = Annotated[bool, Parameter(help="Print JSON.")]


@Parameter(name="*", group="Codec")
@dataclass(frozen=True)
class CodecOptions:
    """Options that select a codec.

    Attributes:
        codec: Name of the codec, as in CompressAI; the built-in `tiny-bmshj2018-hyperprior`;
            `zhang2022` or `zhang2022-layered`, with weights of your own; or one of another package.
        quality: 1 (smallest files) to 8; 1 to 6 for cheng2020, 1 to 4 for zhang2022, 0 to 2 for the
            built-in one. For a variable-rate codec (`...-vbr`), the rate of the bitstreams.
        metric: Training metric of the codec, `mse` or `ms-ssim`.
        codec_weights: Local file of weights instead of the published ones; `{quality}` in its path
            is replaced by the quality; `untrained` for random weights.
        quantization: `dequantized`, Q(y - mu) + mu, as decoded from a bitstream; or `rounded`,
            round(y).
    """

    codec: str
    quality: int
    metric: str = "mse"
    codec_weights: str = ""
    quantization: str = "dequantized"

    def choice(self) -> CodecChoice:
        """Return the choice of the codec."""
        from cdl_d2.codec import CodecChoice

        return CodecChoice(
            self.codec, self.quality, self.metric, self.codec_weights, self.quantization
        )


def _dataset_field(option: DatasetOption) -> tuple[str, Any, Any]:
    """Return the name, type and default of an option's field: a list of tuples of words."""
    words = f"NAME {option.arguments}"
    values = tuple[(str,) * len(words.split())]
    kind = Annotated[list[values], Parameter(metavar=words, help=option.help)]
    return option.name, kind, field(default_factory=list)


# Data sets to register, one field per option of the table of tasks; each can be given repeatedly.
Datasets = Parameter(name="*", group="Data sets of your own, by the name that the config uses")(
    make_dataclass(
        "Datasets",
        [_dataset_field(option) for task in TASKS.values() for option in task.dataset_options],
        namespace={"__module__": __name__},  # cyclopts takes no classes of the standard library
        frozen=True,
    )
)
NO_DATASETS = Datasets()


def load_config(model: str, overrides: Sequence[str], datasets: Datasets = NO_DATASETS) -> CfgNode:
    """Return the config of MODEL, of Detectron2; MODEL.WEIGHTS names its weights."""
    from cdl_d2.d2.engine.run_config import RunConfig
    from cdl_d2.prediction.loading import find_detectron2_config

    config_file, changes, weights = find_detectron2_config(model)
    changes += ["MODEL.WEIGHTS", weights] if weights else []
    return RunConfig(str(config_file), (*changes, *overrides), vars(datasets)).load()


def is_named_or_converted(model: str, overrides: Sequence[str]) -> bool:
    """Return whether MODEL is a network of torchvision or timm; CdlError for overrides of one."""
    from cdl_d2.prediction.loading import find_model

    if find_model(model).backend != "pytorch":
        return False
    if overrides:
        raise CdlError(f"{overrides[0]}: {model} has no config to change")
    return True


def find_lazy_model(model: str, overrides: Sequence[str]) -> LazyModel | None:
    """Return the LazyConfig of MODEL, None for other configs; raise CdlError for overrides."""
    from cdl_d2.prediction.loading import find_detectron2_config
    from cdl_d2.yaml_text import is_lazy_config

    config_file, *_ = find_detectron2_config(model)
    if not config_file.is_file() or not is_lazy_config(config_file):
        return None
    if overrides:
        raise CdlError(f"{overrides[0]} is no key of a LazyConfig: change {config_file}")
    from cdl_d2.d2.lazy_config import read_lazy_config

    return read_lazy_config(config_file)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split INPUTS [KEY VALUE ...] before the first word that is a config key and no file."""
    for index, word in enumerate(words):
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", word) and not os.path.lexists(word):
            return list(words[:index]), list(words[index:])
    return list(words), []
