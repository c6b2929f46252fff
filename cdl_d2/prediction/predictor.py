"""From an image or a bitstream to what a model says of it."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from cdl_d2.errors import CdlError, within_memory
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.hub import push_model, read_model, save_model
from cdl_d2.prediction.loading import load_card, load_model
from cdl_d2.prediction.models import PredictionModel
from cdl_d2.prediction.reading import Source, SourceReader
from cdl_d2.prediction.results import Prediction
from cdl_d2.workers import PlainlyPickled, load_in_workers

Outcome = Prediction | CdlError | OSError
T = TypeVar("T")


class Predictor:
    """A trained model that takes images and bitstreams, the same for all tasks and both backends.

    ```
    predictor = Predictor.load("output/converted")
    found = predictor("coded/00000.cdlz")
    print(found.names, found.scores, found.boxes)
    ```

    Args:
        model: see load_model.

    Attributes:
        model: the same.
        read: makes an item of a source, see SourceReader.
    """

    def __init__(self, model: PredictionModel):
        self.model = model
        on_cpu = model.coded_input
        if on_cpu.codec is not None and model.device.type != "cpu":  # workers have no GPU
            on_cpu = on_cpu.on_cpu()
        self.read = SourceReader(on_cpu, model.resize, cropped=model.task.of_one_size)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        device: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Predictor:
        """A model of the zoo, of a training's output folder, or of a checkpoint; see load_model."""
        return cls(load_model(name_or_path, device, class_names))

    @classmethod
    def from_pretrained(cls, folder_or_repository: str | Path, device: str | None = None):
        """A model that save_pretrained or push_to_hub wrote; raises as read_model and load_model.

        Args:
            folder_or_repository: a folder, or `USER/NAME` on the Hugging Face Hub.
        """
        return cls(load_card(read_model(folder_or_repository), device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, which must be of the zoo, to a folder of its own; see save_model."""
        save_model(self._card, Path(folder))

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Put the model, which must be of the zoo, on the Hugging Face Hub; see push_model."""
        return push_model(self._card, repository, private)

    @property
    def _card(self) -> Card:
        if self.model.card is None:
            raise CdlError(
                "the model has no card, which says what it is: make one by `cdl zoo add`, and load "
                "it by its name"
            )
        return self.model.card

    def __call__(self, source: Source) -> Prediction:
        """What the model says of one image.

        Args:
            source: a path of an image, of a bitstream (`.cdlz`), also of a base layer, or of a
                file of CompressAI's (`.bin`); the bytes of any of them; a Bitstream; or an image as
                a picture of Pillow, an array H x W x 3 or a tensor 3 x H x W, of uint8, RGB. A
                model of pixels decodes bitstreams; a model of latents encodes images.

        Returns:
            Detections, Segmentation or Classification, in pixels of the given image.

        Raises:
            CdlError, OSError: if the source cannot be read, or was coded by another codec.
        """
        return next(self.stream([source]))

    def stream(
        self,
        sources: Iterable[Source],
        batch_size: int = 1,
        workers: int = 0,
        broken: Callable[[Source, Exception], None] | None = None,
    ) -> Iterator[Prediction]:
        """Yield predictions in the order of the sources, which are drawn as they are needed.

        Args:
            sources: of any length; with workers at most two batches a worker are drawn ahead.
            batch_size: sources that are looked at together, where their sizes agree.
            workers: processes. Of a model on the CPU each predicts by itself, with one thread; of
                one on a GPU they read files and decode their entropy code.
            broken: is told of a source that cannot be read, which is then passed over; default the
                error is raised.

        Raises:
            CdlError, OSError: as a call does.
        """
        for source, outcome in self.outcomes(sources, batch_size, workers):
            if isinstance(outcome, Prediction):
                yield outcome
            elif broken is None:
                raise outcome
            else:
                broken(source, outcome)

    def outcomes(
        self, sources: Iterable[Source], batch_size: int = 1, workers: int = 0
    ) -> Iterator[tuple[Source, Outcome]]:
        """As stream, each source with its prediction, or with the error of one that is broken."""
        if workers < 0:
            raise CdlError(f"{workers} workers are below 0")
        batches = _batches(sources, batch_size)
        if not workers:
            for batch in batches:
                yield from self._with_pictures(batch, self._predict_sources(batch))
            return
        in_workers = self.model.device.type == "cpu"
        work = self._predict_sources if in_workers else partial(_read_items, self.read)
        drawn: deque[list[Source]] = deque()
        for packed in load_in_workers(_Work(work), _packed(batches, drawn), workers):
            results = pickle.loads(packed)
            outcomes = results if in_workers else self._predict(results)
            yield from self._with_pictures(drawn.popleft(), outcomes)

    def _predict_sources(self, batch: Sequence[Source]) -> list[Outcome]:
        """Return the outcome of each source."""
        return self._predict(_read_items(self.read, batch))

    def _predict(self, items: Sequence) -> list[Outcome]:
        """What the model says of each item; an item that it refuses does not stop the others."""
        good = [i for i, item in enumerate(items) if isinstance(item, dict)]
        outcomes = list(items)
        try:
            with within_memory():
                found = self.model.predict([items[i] for i in good])
        except CdlError:
            found = [_tried(self._predict_one, items[i]) for i in good]
        for i, prediction in zip(good, found, strict=True):
            outcomes[i] = prediction
        return outcomes

    def _predict_one(self, item: dict) -> Prediction:
        return self.model.predict([item])[0]

    def _with_pictures(
        self, batch: Sequence[Source], outcomes: Sequence[Outcome]
    ) -> Iterator[tuple[Source, Outcome]]:
        for source, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Prediction):
                outcome = replace(outcome, picture=partial(self.read.picture, source))
            yield source, outcome


class _Work(PlainlyPickled, Dataset):
    """Results of a worker by batch, both pickled: torch would share each tensor by a file of its
    own, of which a process may have only so many open."""

    def __init__(self, work: Callable[[list[Source]], list]):
        self._work = work

    def __getitem__(self, batch: bytes) -> bytes:
        return pickle.dumps(self._work(pickle.loads(batch)))


def _packed(batches: Iterable[list[Source]], drawn: deque[list[Source]]) -> Iterator[bytes]:
    """Yield batches as bytes for workers, and remember each in `drawn`."""
    for batch in batches:
        drawn.append(batch)
        yield pickle.dumps(batch)


def _read_items(read: SourceReader, batch: Sequence[Source]) -> list:
    """Return an item of each source, or its error."""
    return [_tried(read, source) for source in batch]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    if size < 1:
        raise CdlError(f"a batch size of {size} is below 1")
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _tried(action: Callable[[T], object], given: T) -> object:
    """What an action gives, or the error that says why it cannot."""
    try:
        with within_memory():
            return action(given)
    except (CdlError, OSError) as error:
        return error
