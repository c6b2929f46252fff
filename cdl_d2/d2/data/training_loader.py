"""Training batches in an order that can be resumed at any iteration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from cdl_d2.codec.io.image_files import read_image_size
from cdl_d2.d2.data.coco_datasets import normalize_dataset
from cdl_d2.d2.data.encoding_mapper import Mapper
from cdl_d2.seeds import seeded
from cdl_d2.workers import PlainlyPickled, end_with_parent

Draw = tuple[int, tuple[int, ...]]  # index of a record, and the seed of its random numbers


class TrainingLoader:
    """Endless batches of this process, lists of samples.

    A batch is a function of seed and iteration, independent of the number of workers and of the
    first iteration. Detectron2's samplers define the order. As in Detectron2, images of similar
    aspect ratio are grouped, but before they are loaded, so that batches are skipped at little
    cost.

    Args:
        cfg: DATASETS.TRAIN, DATALOADER, SOLVER.IMS_PER_BATCH (over all processes) and SEED, unless
            `start_at` sets another.
        mapper: from a record to a sample.
    """

    def __init__(self, cfg: CfgNode, mapper: Mapper):
        for name in cfg.DATASETS.TRAIN:
            normalize_dataset(name)
        self._cfg, self._mapper = cfg, mapper
        self._start, self._seed = 0, max(cfg.SEED, 0)
        self._records, self._order = self._records_and_order()
        self._is_wide = cache(lambda index: _is_wide(self._records[index]))

    def start_at(self, iteration: int, seed: int) -> None:
        """Set the first iteration and the seed; call it before iterating."""
        self._start = iteration
        if seed != self._seed:
            self._seed = seed
            _, self._order = self._records_and_order(dataset=self._records)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return iter(
            DataLoader(
                _SeededItems(self._records, self._mapper),
                batch_sampler=islice(self._batches(), self._start, None),
                collate_fn=list,
                num_workers=self._cfg.DATALOADER.NUM_WORKERS,
                worker_init_fn=end_with_parent,
                generator=torch.Generator(),  # keeps the global generator untouched
            )
        )

    def _batches(self) -> Iterator[list[Draw]]:
        size, rank = self._cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), comm.get_rank()
        grouping, groups = self._cfg.DATALOADER.ASPECT_RATIO_GROUPING, defaultdict(list)
        for position, index in enumerate(self._order):
            group = groups[grouping and self._is_wide(index)]
            group.append((index, (self._seed, position, rank, 1)))  # not the seed of a step
            if len(group) == size:
                yield group[:]
                group.clear()

    def _records_and_order(self, **options: Any) -> tuple[Dataset, Sampler[int]]:
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.SEED, cfg.DATALOADER.ASPECT_RATIO_GROUPING = self._seed, False
        with seeded(self._seed):  # some samplers ignore SEED
            stream = build_detection_train_loader(cfg, mapper=_record, **options).dataset
        return stream.dataset, stream.sampler


class _SeededItems(PlainlyPickled, Dataset):
    """Samples whose random numbers are seeded by their position in the order."""

    def __init__(self, records: Dataset, mapper: Mapper):
        self._records, self._mapper = records, mapper

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, seed = draw
        with seeded(*seed):
            return self._mapper(self._records[index])


def _record(record: dict[str, Any]) -> dict[str, Any]:
    return record


def _is_wide(record: dict[str, Any]) -> bool:
    if "width" in record:
        return record["width"] > record["height"]
    height, width = read_image_size(record["file_name"])
    return width > height
