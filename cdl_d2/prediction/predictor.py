"""Prediction from images and bitstreams."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.card import Card
from cdl_d2.model_zoo.hub import push_model, read_model, save_model
from cdl_d2.prediction.loading import load_model
from cdl_d2.prediction.models import Outcome, PredictionModel
from cdl_d2.prediction.reading import Source, SourceReader, outcome_of
from cdl_d2.prediction.results import Prediction
from cdl_d2.workers import PlainlyPickled, load_in_workers

Sample = dict[str, Any]
T = TypeVar("T")
INPUTS = {"latent", "scales", "reconstruction"}  # tensors that a network reads


class Predictor:
    """A trained model that takes images and bitstreams, with one interface for all tasks.

    ```
    predictor = Predictor.load("output/converted")
    detections = predictor("coded/00000.cdlz")
    print(detections.names, detections.scores, detections.boxes)
    ```

    Attributes:
        model: network, task and config.
        read: reader that makes a sample of a source.
    """

    def __init__(self, model: PredictionModel):
        self.model = model
        coded_input = model.coded_input
        if coded_input.codec is not None and model.device.type != "cpu":  # workers have no GPU
            coded_input = coded_input.on_cpu()
        self.read = SourceReader(coded_input, model.resize, cropped=model.task.of_one_size)

    @classmethod
    def load(
        cls,
        name: str | Path,
        device: str | None = None,
        class_names: Sequence[str] | None = None,
        precision: str = "float32",
    ) -> Predictor:
        """Load a trained model.

        Args:
            name: a name of the zoo, the output folder of a training, a checkpoint, a config,
                CONFIG:WEIGHTS, or a model of a backend's zoo, as find_model resolves it.
            device: default a GPU if there is one.
            class_names: K names that replace the model's own.
            precision: `bfloat16` lets the backbone, or a network without one, compute in it, which
                is faster on GPUs and on CPUs with instructions for it.

        Raises:
            CdlError, FileNotFoundError: if there is no such model, or it cannot be loaded.
            MissingPackageError: if the package of its backend is not installed.
        """
        return cls(load_model(name, device, class_names, precision=precision))

    @classmethod
    def from_pretrained(cls, folder_or_repository: str | Path, device: str | None = None):
        """Load a model that save_pretrained or push_to_hub wrote.

        Args:
            folder_or_repository: a folder, or `USER/NAME` on the Hugging Face Hub.
            device: `cpu` or `cuda`. Default: a GPU if there is one.
        """
        return cls(load_model(read_model(folder_or_repository), device))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, which must be of the zoo, to a folder of its own."""
        save_model(self._card, Path(folder))

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload the model, which must be of the zoo, to the Hugging Face Hub; return its URL."""
        return push_model(self._card, repository, private)

    @property
    def _card(self) -> Card:
        if self.model.card is None:
            raise CdlError(
                "the model has no card with its origin and metrics: make one by `cdl zoo add`, and "
                "load it by its name"
            )
        return self.model.card

    def __call__(self, source: Source) -> Prediction:
        """Predict one image.

        Args:
            source: path of an image, of a bitstream (`.cdlz`) or its base layer, or of a file of
                CompressAI (`.bin`); the bytes of any of them; a Bitstream; or an image as a picture
                of Pillow, an array H x W x 3 or a tensor 3 x H x W, of uint8, RGB. An RGB model
                decodes bitstreams; a latent model encodes images.

        Returns:
            the prediction of the model's task, in pixels of the original image.

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
        """Yield predictions in the order of the sources.

        Args:
            sources: of any length, read lazily; with workers up to two batches per worker ahead.
            batch_size: sources per batch, if their sizes agree.
            workers: processes. For a model on the CPU, each predicts with one thread; for a model
                on a GPU, they read files and decode their entropy code.
            broken: called with a source that cannot be read and its error; None to raise the error.

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
        """Yield each source with its prediction or its error; arguments as of stream."""
        if workers < 0:
            raise CdlError(f"{workers} workers are below 0")
        batches = _batches(sources, batch_size)
        for batch, outcomes in self._predict_batches(batches, workers):
            for source, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Prediction):
                    outcome = replace(outcome, picture=partial(self.read.picture, source))
                yield source, outcome

    def _predict_batches(
        self, batches: Iterable[list[Source]], workers: int
    ) -> Iterator[tuple[list[Source], list[Outcome]]]:
        if not workers:
            for batch in batches:
                yield batch, self._predict_sources(batch)
            return
        in_workers = self.model.device.type == "cpu"
        work = self._predict_sources if in_workers else partial(_read_samples, self.read)
        pending: deque[list[Source]] = deque()
        for packed in load_in_workers(_Work(work), _pack(batches, pending), workers):
            results = pickle.loads(packed)
            batch = pending.popleft()
            if in_workers:
                yield batch, results
                continue
            device = self.model.device
            yield batch, self.model.predict_readable([_copy_to(device, s) for s in results])

    def _predict_sources(self, batch: Sequence[Source]) -> list[Outcome]:
        return self.model.predict_readable(_read_samples(self.read, batch))


class _Work(PlainlyPickled, Dataset):
    """Results of a worker per batch, both pickled.

    PyTorch would share each tensor by a file of its own, and open files are limited.
    """

    def __init__(self, work: Callable[[list[Source]], list]):
        self._work = work

    def __getitem__(self, batch: bytes) -> bytes:
        return pickle.dumps(self._work(pickle.loads(batch)))


def _pack(batches: Iterable[list[Source]], pending: deque[list[Source]]) -> Iterator[bytes]:
    """Yield batches as bytes for workers, and append each to `pending`."""
    for batch in batches:
        pending.append(batch)
        yield pickle.dumps(batch)


def _read_samples(read: SourceReader, batch: Sequence[Source]) -> list[Sample | Exception]:
    return [outcome_of(read, source) for source in batch]


def _copy_to(device: torch.device, sample: Sample | Exception) -> Sample | Exception:
    """Return a sample whose input is on a device; CUDA copies it while this process goes on."""
    if isinstance(sample, Exception):
        return sample
    pins = device.type == "cuda"  # only pinned memory is copied in the background
    return sample | {
        key: (sample[key].pin_memory() if pins else sample[key]).to(device, non_blocking=pins)
        for key in INPUTS & sample.keys()
    }


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    if size < 1:
        raise CdlError(f"a batch size of {size} is below 1")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
