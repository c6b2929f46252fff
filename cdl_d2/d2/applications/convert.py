"""Conversion of a trained RGB model to latent input, with unlabelled images and without training.

A linear bridge replaces the first convolution and is fitted to the images; the other layers keep
the weights of the RGB model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.d2.applications.backend import Detectron2Backend
from cdl_d2.d2.building import MISFITS, build_model
from cdl_d2.d2.checkpoint import SafeCheckpointer
from cdl_d2.d2.config import INITIALIZATION_KEYS, without_initialization
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.engine.run_config import check_device, with_usable_device
from cdl_d2.d2.engine.trainer import check_bridged_weights
from cdl_d2.d2.modeling.backbone.bridged_backbone import FIRST_CONVOLUTION
from cdl_d2.d2.modeling.teacher import find_weights
from cdl_d2.d2.tasks import build_mapper, get_task
from cdl_d2.errors import CdlError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE, write_text
from cdl_d2.nn.backbones.rgb_model import IMAGENET, IMAGENET_CLASSES, imagenet_names
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.bridge.linear_bridge import LinearBridge

OUTPUT_FILES = (WEIGHTS_FILE, CONFIG_FILE, "last_checkpoint")
INIT = "MODEL.CLASSIFIER.INIT"


@dataclass(frozen=True)
class Conversion:
    """A conversion and its arguments.

    Attributes:
        config_file: config of the RGB model.
        images: files of unlabelled images.
        codec: codec whose latents the converted model reads.
        output: folder to write, laid out as that of a training.
        weights: file or URL of the RGB model's weights; default those that find_weights finds.
        base_overrides: KEY, VALUE, ... changes that belong to the RGB model's config.
        overrides: KEY VALUE changes of the new config, such as MODEL.BRIDGE.FIT_IMAGES 500.
    """

    config_file: Path
    images: Sequence[Path]
    codec: CodecChoice
    output: Path
    weights: str | None = None
    base_overrides: Sequence[Any] = ()
    overrides: tuple[str, ...] = ()

    def run(self) -> float:
        """Fit the bridge, check the model on an image, and write config and weights.

        Returns:
            the share of the first convolution's variance that the bridge explains, at most 1.

        Raises:
            CdlError, OSError: for unusable arguments, or an output folder with another model.
        """
        cfg, files = self.latent_config(), list(self.images)
        self._check_output(cfg)
        with self._output_folder():
            random.Random(0).shuffle(files)
            read = _image_reader(cfg)
            model, checkpointer = _load_rgb_weights(with_usable_device(cfg), self.output)
            explained = model.fit_bridge(
                map(read, files), min(cfg.MODEL.BRIDGE.FIT_IMAGES, len(files))
            )
            if explained is None:
                raise CdlError(f"{cfg.MODEL.WEIGHTS} are of a model that reads latents already")
            _check_prediction(model, read(files[0]))
            write_text(self.output / CONFIG_FILE, self._written_config(cfg))
            checkpointer.save(Path(WEIGHTS_FILE).stem)
        return explained

    def latent_config(self) -> CfgNode:
        """Return the RGB model's config, changed to read latents by a bridge.

        Raises:
            CdlError, FileNotFoundError: if it is missing, or of a model that cannot be converted.
        """
        path = self.config_file
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}, the config of that training: write one, such as Detectron2's "
                "cfg.dump() gives"
            )
        cfg = read_config(path, self.base_overrides)
        bridge, weights = _bridge_options(cfg, path), self._rgb_weights(path, cfg)
        initial = {} if weights else _initialization(cfg)
        options: dict[str, Any] = bridge | {
            "MODEL.WEIGHTS": weights,
            **dict.fromkeys(INITIALIZATION_KEYS, ""),
            **initial,
            "MODEL.TEACHER.CONFIG_FILE": "",
            "MODEL.TEACHER.WEIGHTS": "",
            "INPUT.DOMAIN": "latent",
            "INPUT.LATENT_SOURCE": "model",
            "INPUT.MASK_FORMAT": "bitmask",
            "DATASETS.TRAIN": (),
            "DATASETS.TEST": (),
            "SOLVER.MAX_ITER": 0,
            "SOLVER.STEPS": (),
            "OUTPUT_DIR": str(self.output),
            **{f"MODEL.CODEC.{key.upper()}": v for key, v in asdict(self.codec).items()},
        }
        pairs = [word for pair in options.items() for word in pair]
        changed = read_config(path, [*self.base_overrides, *pairs, *self.overrides])
        for key, value in bridge.items():
            if attrgetter(key)(changed) != value:
                raise CdlError(
                    f"{key} {attrgetter(key)(changed)}: a conversion needs {value}; for another, "
                    "use `cdl train` with a config of your own"
                )
        if not changed.MODEL.WEIGHTS:
            _check_initial_network(changed, path)
        if "MODEL.DEVICE" in self.overrides:
            check_device(changed)
        return changed

    def _rgb_weights(self, path: Path, cfg: CfgNode) -> str:
        """Return the full path or the URL of the RGB model's weights; empty if there are none."""
        weights = self.weights or find_weights(path, cfg.OUTPUT_DIR)
        return weights if not weights or "://" in weights else str(Path(weights).absolute())

    def _written_config(self, cfg: CfgNode) -> str:
        cfg = without_initialization(cfg)
        cfg.MODEL.WEIGHTS = str((self.output / WEIGHTS_FILE).absolute())
        return cfg.dump()

    def _check_output(self, cfg: CfgNode) -> None:
        """Raise CdlError if the output folder holds a model.

        The config alone is left by an interruption, and may be of the same conversion.
        """
        existing = [name for name in OUTPUT_FILES if (self.output / name).exists()]
        if not existing:
            return
        path = self.output / CONFIG_FILE
        is_interrupted = existing == [CONFIG_FILE] and (
            path.read_text(encoding="utf-8") == self._written_config(cfg)
        )
        if not is_interrupted:
            raise CdlError(
                f"{self.output} has a {existing[0]} of another conversion, or of one that has "
                "ended: give another --output"
            )

    @contextmanager
    def _output_folder(self) -> Iterator[None]:
        """Make the output folder; remove a new one if the block fails and leaves it empty."""
        is_new = not self.output.exists()
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # it is not empty
                if is_new:
                    self.output.rmdir()
            raise


def _bridge_options(cfg: CfgNode, path: Path) -> dict[str, str]:
    """Return the options that put a bridge before the model of a config, which is read from `path`.

    Raises:
        CdlError: if the model cannot be converted, or is no RGB model.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    own = f"Compressed{name}"  # of a project
    architecture = get_task(cfg).latent_architectures.get(name, own)
    if architecture not in META_ARCH_REGISTRY:
        raise CdlError(
            f"{path} is of a {name}, which cannot be converted: R-CNNs, RetinaNet, FCOS, "
            "PanopticFPN, segmentation models and classifiers can; another needs a class "
            f"{own} (docs/extending.md, A student)"
        )
    if cfg.INPUT.DOMAIN != "image":
        raise CdlError(
            f"{path} has INPUT.DOMAIN {cfg.INPUT.DOMAIN!r}; expected an RGB model, 'image'"
        )
    return {
        "MODEL.META_ARCHITECTURE": architecture,
        "MODEL.BRIDGE.BACKBONE": cfg.MODEL.BACKBONE.NAME,
        "MODEL.BRIDGE.ENTRY": FIRST_CONVOLUTION,
        "MODEL.BACKBONE.NAME": "build_bridged_backbone",
    }


def _initialization(cfg: CfgNode) -> dict[str, Any]:
    """Return the options by which a classifier keeps its INIT, and gets the names of ImageNet."""
    named = cfg.MODEL.CLASS_NAMES or attrgetter(INIT)(cfg) != IMAGENET
    names = {} if named else {"MODEL.CLASS_NAMES": imagenet_names()}
    return {INIT: attrgetter(INIT)(cfg), **names}


def _check_initial_network(cfg: CfgNode, path: Path) -> None:
    """Raise CdlError unless the INIT of a classifier without weights has its last layer, too."""
    keys = cfg.MODEL.CLASSIFIER
    message = f"there are no weights of {path}: name {path}:WEIGHTS"
    if not keys.INIT or get_task(cfg).name != "classification":
        raise CdlError(message)
    counts = {IMAGENET_CLASSES}
    if keys.INIT != IMAGENET:
        counts = {len(weight) for weight in load_state_dict(keys.INIT).values() if weight.ndim}
    if keys.NUM_CLASSES not in counts:
        raise CdlError(
            f"{message}, or set MODEL.CLASSIFIER.NUM_CLASSES, {keys.NUM_CLASSES}, to the number of "
            f"classes ({IMAGENET_CLASSES} of ImageNet) of the network that {INIT} {keys.INIT} loads"
        )


def _load_rgb_weights(cfg: CfgNode, output: Path) -> tuple[nn.Module, SafeCheckpointer]:
    """Build the latent model and load MODEL.WEIGHTS into all of it but what is fitted.

    Without MODEL.WEIGHTS, the model is built with those of MODEL.CLASSIFIER.INIT.

    Raises:
        CdlError: if the weights do not hold every other entry.
    """
    model = build_model(cfg)
    checkpointer = SafeCheckpointer(model, str(output))
    if not cfg.MODEL.WEIGHTS:
        return model, checkpointer
    checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    check_bridged_weights(checkpointer)
    fitted = tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, LinearBridge | LatentTranslation)
    )
    missing = [
        key
        for key in model.state_dict()
        if key not in checkpointer.loaded
        and not key.startswith(fitted)
        and not key.endswith("num_batches_tracked")
    ]
    if missing:
        raise CdlError(
            f"{cfg.MODEL.WEIGHTS} lacks {len(missing)} entries of the model, such as "
            f"{missing[0]}: are they of this RGB model?"
        )
    return model, checkpointer


def _image_reader(cfg: CfgNode) -> Callable[[Path], dict[str, Any]]:
    """Return the function from an image file to a sample, resized or cropped as in evaluation."""
    mapper = build_mapper(cfg, is_train=False)

    def read(path: Path) -> dict[str, Any]:
        height, width = read_image(path).shape[1:]
        return mapper({"file_name": str(path), "height": height, "width": width})

    return read


@torch.no_grad()
def _check_prediction(model: nn.Module, sample: dict[str, Any]) -> None:
    """Raise CdlError if a converted model cannot predict an image like those it was fitted to.

    Its output must be one that this package reads: no rotated boxes.
    """
    try:
        [output] = model.eval()([sample])
        Detectron2Backend().read_output(output)
    except MISFITS as error:
        height, width = sample["image"].shape[1:]
        raise CdlError(
            f"the converted model cannot predict an image of {height} x {width} pixels: {error}"
        ) from error
