"""From what a training left to a card of the zoo, with packed weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdl_d2.errors import CdlError
from cdl_d2.files import CONFIG_FILE, WEIGHTS_FILE, write_atomically, write_text
from cdl_d2.model_zoo.card import Card, CardCodec, CardData, CardWeights, parse_card
from cdl_d2.model_zoo.card_keys import PACKAGED
from cdl_d2.model_zoo.catalog import read_cards
from cdl_d2.model_zoo.metrics import read_metrics
from cdl_d2.packaged import CONFIGS

if TYPE_CHECKING:
    from torch import nn

    from cdl_d2.codec import CodecIdentity


@dataclass(frozen=True)
class Addition:
    """A trained model that is put into a zoo.

    Attributes:
        model: output folder of a training, or a checkpoint of `cdl train-torchvision`.
        name: of the card.
        output: folder like $CDL_HOME: gets `cards/NAME.yaml` and a file in `weights/`.
        config_file: for Detectron2, the name of the config of this package that comes next to it.
        classes: names, in the order of the outputs; None for those that the training kept.
        data, command: see Card.
        seed: of the training; None for what its config says.
        url: where the weights will be; None if nowhere.
        precision: of large weights in the file.
        results: of an evaluation; None for `results.json` beside the model.
    """

    model: Path
    name: str
    output: Path
    data: CardData
    config_file: str | None = None
    classes: tuple[str, ...] | None = None
    command: str = ""
    seed: int | None = None
    url: str | None = None
    precision: Literal["int8", "float32"] = "int8"
    results: Path | None = None

    def write(self) -> Card:
        """Write card and weights, which have been loaded once.

        Raises:
            CdlError, OSError: for what cannot be used; if there is a model of that name.
        """
        path = self.output / "cards" / f"{self.name}.yaml"
        if path.exists() or self.name in read_cards()[0]:
            raise CdlError(f"there is a model {self.name} already: give another --name")
        made, folder = self._trained(), self.model if self.model.is_dir() else self.model.parent
        codec, content = made.codec, _packed(made.network, self.precision)
        sha256 = hashlib.sha256(content).hexdigest()
        text = Card(
            name=self.name,
            task=made.task,
            engine=made.engine,
            config=made.config,
            classes=made.classes,
            codec=codec and CardCodec(codec.name, codec.quality, codec.metric, codec.weights),
            data=self.data,
            command=self.command,
            metrics=read_metrics(self.results or folder / "results.json", bool(self.results)),
            seed=made.seed,
            date=date.fromtimestamp(made.file.stat().st_mtime),
            weights=CardWeights(self.url, len(content), sha256),
            overrides=made.overrides,
        ).to_yaml()
        card = parse_card(text, path)  # says what is wrong before anything is written
        is_packaged = (self.url or "").startswith(PACKAGED)
        name = self.url.removeprefix(PACKAGED) if is_packaged else f"{sha256}.safetensors"
        self._write_weights(self.output / "weights" / name, content, made.load)
        _make_folder(path.parent)
        write_text(path, text)
        return card

    def _write_weights(self, path: Path, content: bytes, load: Callable[[Path], Any]) -> None:
        """Write a file of weights that can be loaded, or none."""
        _make_folder(path.parent)
        if path.exists() and path.read_bytes() != content:
            raise CdlError(f"{path} is another model's: give another name in --url")
        with write_atomically(path) as temporary:
            temporary.write_bytes(content)
        try:
            load(path)
        except Exception:
            path.unlink()
            raise

    def _trained(self) -> _Trained:
        if self.model.is_dir() and (self.model / CONFIG_FILE).is_file():
            return self._of_detectron2()
        return self._of_torchvision()

    def _of_detectron2(self) -> _Trained:
        if self.config_file is None:
            raise CdlError(
                f"{self.model} is of Detectron2: give the config of this package that comes next "
                "to it as --config-file"
            )
        from cdl_d2.d2.applications.zoo_models import build_zoo_model, overrides_between
        from cdl_d2.d2.checkpoint import load_all_weights
        from cdl_d2.d2.config_files import read_config
        from cdl_d2.d2.engine.tasks import class_count, task_of
        from cdl_d2.model_zoo import get_config_file

        base, file = Path(get_config_file(self.config_file)), self.model / WEIGHTS_FILE
        options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(file)]
        cfg = read_config(self.model / CONFIG_FILE, options)
        classes = self.classes or tuple(cfg.MODEL.CLASS_NAMES)
        if class_count(cfg) != len(classes):
            raise CdlError(
                f"{self.model} tells {class_count(cfg)} classes apart, and {len(classes)} are "
                "named: give --classes"
            )
        cfg.MODEL.CODEC.WEIGHTS = self._codec_weights(cfg.MODEL.CODEC.WEIGHTS)
        network = build_zoo_model(cfg, trained=True)
        return _Trained(
            network,
            file,
            load=lambda path: load_all_weights(network, str(path)),
            engine="detectron2",
            task=task_of(cfg).name,
            config=base.relative_to(CONFIGS).as_posix(),
            overrides=tuple(overrides_between(read_config(base), cfg)),
            classes=classes,
            codec=_codec_of(network),
            seed=cfg.SEED if self.seed is None and cfg.SEED >= 0 else self.seed,
        )

    def _of_torchvision(self) -> _Trained:
        from cdl_d2.codec.io.weights_file import load_state_dict
        from cdl_d2.tv.checkpoint import load_all, load_detector

        file = self.model / WEIGHTS_FILE if self.model.is_dir() else self.model
        if self.config_file is not None:
            raise CdlError(f"{file} is of torchvision, and has its config in it: no --config-file")
        network, config = load_detector(file)
        if self.classes not in (None, config.classes):
            raise CdlError(f"{file} knows the classes {', '.join(config.classes)}: no --classes")
        values = asdict(config)
        if config.codec:
            values["codec"]["weights"] = self._codec_weights(config.codec.weights)
        return _Trained(
            network,
            file,
            load=lambda path: load_all(network, load_state_dict(path), str(path)),
            engine="torchvision",
            task="detection",
            config=values,
            overrides=(),
            classes=config.classes,
            codec=_codec_of(network),
            seed=self.seed,
        )

    def _codec_weights(self, weights: str) -> str:
        """The full path of a codec's own weights, which go with a card on this machine only."""
        if not Path(weights).is_file():
            return weights
        if self.url is not None:
            raise CdlError(
                f"{self.model} reads a codec with weights of its own, {weights}, which a card with "
                "a --url does not bring along"
            )
        return str(Path(weights).absolute())


@dataclass(frozen=True)
class _Trained:
    """A trained model: `load` reads other weights of it from a file."""

    network: nn.Module
    file: Path
    load: Callable[[Path], Any]
    engine: str
    task: str
    config: str | dict[str, Any]
    overrides: tuple[Any, ...]
    classes: tuple[str, ...]
    codec: CodecIdentity | None
    seed: int | None


def _codec_of(network: nn.Module) -> CodecIdentity | None:
    codec = getattr(getattr(network, "coded_input", None), "codec", None)
    return codec and codec.identity


def _packed(network: nn.Module, precision: str) -> bytes:
    """A file's content; trained bridges and codecs keep all their digits."""
    from cdl_d2.codec.io.packed_weights import packed_bytes
    from cdl_d2.codec.learning.trainable import TrainableCodec
    from cdl_d2.nn.bridge.bridge import Bridge

    exact = (Bridge, TrainableCodec)
    kept = tuple(f"{name}." for name, m in network.named_modules() if isinstance(m, exact))
    return packed_bytes(
        network.state_dict(), lambda name: precision == "float32" or name.startswith(kept)
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made ({error.strerror}): give another --output, or CDL_HOME"
        ) from error
