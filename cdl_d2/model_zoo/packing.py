"""Packing of a trained model: its card for the zoo, and a file of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdl_d2.errors import CdlError
from cdl_d2.files import WEIGHTS_FILE, write_atomically, write_text
from cdl_d2.model_zoo.backends import checkpoint_backend, get_backend
from cdl_d2.model_zoo.card import PACKAGED, Card, CardCodec, CardData, CardWeights, read_card
from cdl_d2.model_zoo.catalog import read_cards
from cdl_d2.model_zoo.metrics import read_metrics

if TYPE_CHECKING:
    from torch import nn

    from cdl_d2.backend import Backend, Config


@dataclass(frozen=True)
class Addition:
    """Trained model to add to a zoo.

    Attributes:
        model: output folder of a training, or a checkpoint.
        name: name of the card.
        output: folder like $CDL_HOME, for `cards/NAME.yaml` and a file in `weights/`.
        data: training data.
        config_file: for Detectron2, name of the packaged config that the model was trained with.
        classes: K names, in the order of the outputs; None for those that the training kept.
        command: command of the training.
        seed: seed of the training; None for that of its config.
        url: future URL of the weights; None for none.
        precision: precision of large weights in the file.
        results: results of an evaluation; None for `results.json` beside the model.
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
        """Write card and weights, after loading the packed weights once.

        Raises:
            CdlError, OSError: for an unusable model or value, or a name that exists.
        """
        path = self.output / "cards" / f"{self.name}.yaml"
        if path.exists() or self.name in read_cards()[0]:
            raise CdlError(f"there is a model {self.name} already: give another --name")
        folder = self.model if self.model.is_dir() else self.model.parent
        checkpoint = self.model / WEIGHTS_FILE if self.model.is_dir() else self.model
        backend = get_backend(checkpoint_backend(checkpoint), str(checkpoint))
        network, config, _ = backend.load(checkpoint, "cpu")
        classes = self._classes(backend, config)
        codec = backend.coded_input(network, config).codec
        identity, content = codec and codec.identity, _packed(network, self.precision)
        values, overrides = backend.write_card_config(
            config, self.config_file, classes, self._codec_weights(backend.codec_weights(config))
        )
        sha256 = hashlib.sha256(content).hexdigest()
        text = Card(
            name=self.name,
            task=backend.task(config),
            backend=backend.name,
            config=values,
            classes=classes,
            codec=identity
            and CardCodec(identity.name, identity.quality, identity.metric, identity.weights),
            data=self.data,
            command=self.command,
            metrics=read_metrics(self.results or folder / "results.json", bool(self.results)),
            seed=backend.seed(config) if self.seed is None else self.seed,
            date=date.fromtimestamp(checkpoint.stat().st_mtime),
            weights=CardWeights(self.url, len(content), sha256),
            overrides=overrides,
        ).to_yaml()
        card = read_card(path, text)  # raises before anything is written
        is_packaged = (self.url or "").startswith(PACKAGED)
        name = self.url.removeprefix(PACKAGED) if is_packaged else f"{sha256}.safetensors"
        self._write_weights(
            self.output / "weights" / name, content, partial(backend.load_weights, network)
        )
        _make_folder(path.parent)
        write_text(path, text)
        return card

    def _write_weights(self, path: Path, content: bytes, load: Callable[[Path], Any]) -> None:
        """Write a file of weights, and remove it again if it cannot be loaded."""
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

    def _classes(self, backend: Backend, config: Config) -> tuple[str, ...]:
        names = backend.class_names(config)
        classes = self.classes or (names if backend.has_class_names(config) else ())
        if len(classes) != len(names):
            raise CdlError(
                f"{self.model} has {len(names)} classes, and {len(classes)} are named: name all"
            )
        return classes

    def _codec_weights(self, weights: str) -> str:
        """Return the full path of a codec's own weights, for a card without a URL."""
        if not Path(weights).is_file():
            return weights
        if self.url is not None:
            raise CdlError(
                f"{self.model} needs a codec with weights of its own, {weights}, which a card with "
                "a URL does not include"
            )
        return str(Path(weights).absolute())


def _packed(network: nn.Module, precision: str) -> bytes:
    """Return the content of the file; trained bridges and codecs keep full precision."""
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
