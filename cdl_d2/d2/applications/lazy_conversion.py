"""Conversion of the model of a LazyConfig to latent input."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall
from detectron2.modeling import META_ARCH_REGISTRY
from omegaconf import OmegaConf
from torch import nn

from cdl_d2.codec import Codec
from cdl_d2.codec.choice import QUALITY
from cdl_d2.conversion import Preprocessing
from cdl_d2.d2.applications.conversion import ModelConversion, Reader, check_names, scaled_images
from cdl_d2.d2.applications.lazy_backend import LazyBackend
from cdl_d2.d2.data.image_mapper import read_pixels
from cdl_d2.d2.lazy_config import CLASS_NAMES, LazyModel, read_lazy_config
from cdl_d2.d2.lazy_saving import to_yaml
from cdl_d2.d2.lazy_text import TARGET
from cdl_d2.d2.modeling.meta_arch.compressed_detector import CompressedDetector
from cdl_d2.d2.tasks import match_task
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError
from cdl_d2.files import WEIGHTS_FILE
from cdl_d2.nn.bridge.bridge_fit import FIT_IMAGES
from cdl_d2.nn.bridge.linear_bridge import usual_decoder_stride
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.input.domains import LATENT

FIT, STRIDE, WIDTH, DEVICE, NAMES = (
    *("MODEL.BRIDGE.FIT_IMAGES", "MODEL.BRIDGE.STRIDE", "MODEL.BRIDGE.WIDTH", "MODEL.DEVICE"),
    "MODEL.CLASS_NAMES",
)
PARSERS: dict[str, Callable[[str], Any]] = {DEVICE: str, NAMES: literal_eval}
KEPT = ("model", "dataloader", "train", "optimizer", "lr_multiplier", CLASS_NAMES)


@dataclass(frozen=True)
class LazyConversion(ModelConversion):
    """Conversion of a detector of a LazyConfig; the result is one, too, in YAML.

    Of `overrides`, it takes MODEL.BRIDGE.FIT_IMAGES, STRIDE and WIDTH, MODEL.DEVICE and
    MODEL.CLASS_NAMES.
    """

    backend = LazyBackend()

    def latent_config(self) -> LazyModel:
        lazy, keys = read_lazy_config(self.config_file), self._keys()
        if self.entry or self.finest_level:
            raise CdlError(
                f"{self.config_file} is a LazyConfig, whose bridge replaces the first convolution: "
                "expected a config in YAML for another entry or other levels"
            )
        names, order = keys[NAMES] or lazy.class_names, lazy.channel_order
        node, architecture = lazy.config.model, _latent_architecture(lazy)
        codec = {k: v for k, v in asdict(self.codec).items() if k != "qualities"}
        codec["weights"] = codec["weights"].replace(QUALITY, str(self.codec.quality))
        stride = keys[STRIDE] or usual_decoder_stride(lazy.build_backbone())
        node[TARGET] = architecture
        node.coded_input = LazyCall(CodedInput)(
            domain=self.domain, codec=LazyCall(Codec.load)(**codec), channel_order=order
        )
        if self.domain == LATENT:
            node.coded_input.with_margin = True
            node.bridge = {"decoder_stride": stride, "width": keys[WIDTH] or None}
        if names:
            lazy.config[CLASS_NAMES] = check_names(names, lazy.class_count)
        self.rgb_weights(lazy)  # raises now rather than after the fit, as what follows
        self.written_config(lazy)
        return lazy

    def build(self, cfg: LazyModel) -> nn.Module:
        return cfg.build(usable_device(self._keys()[DEVICE] or None))

    def build_rgb_model(self, cfg: LazyModel) -> nn.Module:
        return read_lazy_config(self.config_file).build()

    def preprocessing(self, cfg: LazyModel, model: nn.Module) -> Preprocessing:
        variant = cfg.test_variant
        return scaled_images(variant.short_edge, variant.max_size, model)

    def rgb_weights(self, cfg: LazyModel) -> str:
        weights = self.find_weights(cfg.output_dir)
        if not weights:
            raise CdlError(
                f"there are no weights of {self.config_file}: name {self.config_file}:WEIGHTS"
            )
        return weights

    def fit_images(self, cfg: LazyModel) -> int:
        return self._keys()[FIT]

    def image_reader(self, cfg: LazyModel) -> Reader:
        resize, order = cfg.test_variant.apply, cfg.channel_order

        def read(path: Path) -> dict[str, Any]:
            image = read_pixels(str(path), order)
            height, width = image.shape[1:]
            return {"image": resize(image), "height": height, "width": width}

        return read

    def written_config(self, cfg: LazyModel) -> str:
        config = cfg.config.copy()
        if "train" in config:
            config.train.output_dir = str(self.output.absolute())
            config.train.init_checkpoint = str((self.output / WEIGHTS_FILE).absolute())
        return to_yaml(OmegaConf.masked_copy(config, [*KEPT]), self.config_file)

    def _keys(self) -> dict[str, Any]:
        """Return the values of `overrides`; those that are not given are 0 or empty."""
        values: dict[str, Any] = {
            **{FIT: FIT_IMAGES, STRIDE: 0, WIDTH: 0, DEVICE: "", NAMES: ()},
        }
        for key, value in zip(self.overrides[::2], self.overrides[1::2], strict=True):
            if key not in values:
                raise CdlError(
                    f"{key} is no key of a LazyConfig, whose conversion takes {', '.join(values)}: "
                    f"change {self.config_file}, or a copy of it"
                )
            values[key] = PARSERS.get(key, partial(_parse_integer, key))(value)
        return values


def _latent_architecture(lazy: LazyModel) -> type[nn.Module]:
    """Return the class on latents that replaces the class of an RGB detector.

    Raises:
        CdlError: if there is none, or the model reads latents already.
    """
    architecture, file = lazy.architecture, lazy.file
    if issubclass(architecture, CompressedDetector) or "coded_input" in lazy.config.model:
        raise CdlError(f"{file} is of a {architecture.__name__}; expected an RGB model")
    name = match_task(architecture).latent_architectures.get(architecture.__name__, "")
    latent = META_ARCH_REGISTRY.get(name) if name else nn.Module
    if not issubclass(latent, CompressedDetector):
        raise CdlError(
            f"{file} is of a {architecture.__name__}, which cannot be converted from a LazyConfig: "
            "R-CNNs, PanopticFPN, RetinaNet and FCOS can"
        )
    return latent


def _parse_integer(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise CdlError(f"{key} {value}: expected a whole number") from None
