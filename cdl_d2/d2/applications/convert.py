"""Conversion of the model of a YAML config to latent input."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from cdl_d2.codec import STRIDE
from cdl_d2.codec.io.image_files import read_image
from cdl_d2.codec.io.weights_file import load_state_dict
from cdl_d2.conversion import Preprocessing
from cdl_d2.conversion.latent_network import DECODER_STRIDE
from cdl_d2.d2.applications.conversion import ModelConversion, Reader, check_names, scaled_images
from cdl_d2.d2.applications.pyramid_levels import level_of_entry, without_finer_levels
from cdl_d2.d2.building import build_model
from cdl_d2.d2.config import INITIALIZATION_KEYS, without_initialization
from cdl_d2.d2.config_files import read_config
from cdl_d2.d2.engine.run_config import check_device, with_usable_device
from cdl_d2.d2.modeling.backbone.bridged_backbone import FIRST_CONVOLUTION
from cdl_d2.d2.modeling.teacher import build_rgb_network
from cdl_d2.d2.tasks import build_mapper, class_count, get_task, registered_names
from cdl_d2.errors import CdlError
from cdl_d2.files import WEIGHTS_FILE
from cdl_d2.nn.backbones.rgb_model import IMAGENET, IMAGENET_CLASSES, imagenet_names
from cdl_d2.nn.input.domains import LATENT

INIT = "MODEL.CLASSIFIER.INIT"
ENTRY, BRIDGE_STRIDE = "MODEL.BRIDGE.ENTRY", "MODEL.BRIDGE.STRIDE"
META_ARCHITECTURE = "MODEL.META_ARCHITECTURE"


@dataclass(frozen=True)
class YamlConversion(ModelConversion):
    """Conversion of a model whose config is a YAML file."""

    def latent_config(self) -> CfgNode:
        path = self.config_file
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}, the config of that training: write one, such as Detectron2's "
                "cfg.dump() gives"
            )
        cfg = read_config(path, self.base_overrides)
        bridge, weights = _bridge_options(cfg, path), self.find_weights(cfg.OUTPUT_DIR)
        if self.domain != LATENT:
            if self.entry:
                raise CdlError(f"entry {self.entry}: a model on reconstructions has no bridge")
            bridge = {META_ARCHITECTURE: bridge[META_ARCHITECTURE]}
        initial = {} if weights else _initialization(cfg)
        words = dict(zip(self.overrides[::2], self.overrides[1::2], strict=False))
        level = self.finest_level or level_of_entry(words.get(ENTRY, self.entry))
        options: dict[str, Any] = bridge | {
            "MODEL.WEIGHTS": weights,
            **({ENTRY: self.entry} if self.entry else {}),
            **({BRIDGE_STRIDE: DECODER_STRIDE} if self.distillation else {}),
            **without_finer_levels(cfg, level),
            **dict.fromkeys(INITIALIZATION_KEYS, ""),
            **initial,
            "MODEL.TEACHER.CONFIG_FILE": "",
            "MODEL.TEACHER.WEIGHTS": "",
            "MODEL.BRIDGE.MARGIN": self.domain == LATENT,
            "INPUT.DOMAIN": self.domain,
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
        self._check_bridge(changed, bridge)
        if not changed.MODEL.WEIGHTS:
            _check_initial_network(changed, path)
        names = changed.MODEL.CLASS_NAMES or registered_names(cfg)
        changed.MODEL.CLASS_NAMES = check_names(names, class_count(changed))
        if "MODEL.DEVICE" in self.overrides:
            check_device(changed)
        return changed

    def _check_bridge(self, cfg: CfgNode, bridge: dict[str, Any]) -> None:
        """Raise CdlError if overrides have changed an option of the bridge."""
        for key, value in bridge.items():
            if key != ENTRY and attrgetter(key)(cfg) != value:
                raise CdlError(
                    f"{key} {attrgetter(key)(cfg)}: a conversion needs {value}; for another, use "
                    "`cdl train` with a config of your own"
                )

    def build(self, cfg: CfgNode) -> nn.Module:
        return build_model(with_usable_device(cfg))

    def build_rgb_model(self, cfg: CfgNode) -> nn.Module:
        rgb = read_config(self.config_file, self.base_overrides)
        if cfg.MODEL.WEIGHTS:
            rgb = without_initialization(rgb)
        return build_rgb_network(with_usable_device(rgb))

    def preprocessing(self, cfg: CfgNode, model: nn.Module) -> Preprocessing:
        if get_task(cfg).of_one_size and cfg.INPUT.IMAGE_SIZE:
            side = -(-cfg.INPUT.IMAGE_SIZE // STRIDE) * STRIDE
            return Preprocessing((0,) * 3, (1,) * 3, short_edge=side, crop=side)
        keys, multiples = cfg.INPUT, (STRIDE, STRIDE)
        if keys.CROP.ENABLED and "DeepLab" in cfg.MODEL.SEM_SEG_HEAD.NAME:
            multiples = keys.CROP.SIZE  # of which such heads pool whole multiples
        return scaled_images(keys.MIN_SIZE_TEST, keys.MAX_SIZE_TEST, model, multiples)

    def rgb_weights(self, cfg: CfgNode) -> str:
        return cfg.MODEL.WEIGHTS

    def fit_images(self, cfg: CfgNode) -> int:
        return cfg.MODEL.BRIDGE.FIT_IMAGES

    def image_reader(self, cfg: CfgNode) -> Reader:
        mapper = build_mapper(cfg, is_train=False)

        def read(path: Path) -> dict[str, Any]:
            height, width = read_image(path).shape[1:]
            return mapper({"file_name": str(path), "height": height, "width": width})

        return read

    def written_config(self, cfg: CfgNode) -> str:
        cfg = without_initialization(cfg)
        cfg.MODEL.WEIGHTS = str((self.output / WEIGHTS_FILE).absolute())
        return cfg.dump()


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
        META_ARCHITECTURE: architecture,
        "MODEL.BRIDGE.BACKBONE": cfg.MODEL.BACKBONE.NAME,
        ENTRY: FIRST_CONVOLUTION,
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
