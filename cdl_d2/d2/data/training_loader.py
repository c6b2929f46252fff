"""The batches of a training, in an order that can be entered at any iteration."""

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

Draw = tuple[int, tuple[int, ...]]  # number of a record, and the place that seeds its numbers


class TrainingLoader:
    """Endless batches of this process, lists of a mapper's items.

    A batch follows from seed and iteration, however many workers load it and whichever iteration is
    the first. Detectron2's samplers give the order; images of like aspect ratio are grouped as
    Detectron2 does it, but before they are loaded, so that to skip a batch costs next to nothing.

    Args:
        cfg: DATASETS.TRAIN, DATALOADER, SOLVER.IMS_PER_BATCH (over all processes), and SEED, which
            counts until `start_at` says another.
        mapper: from a record to an item.
    """

    def __init__(self, cfg: CfgNode, mapper: Mapper):
        for name in cfg.DATASETS.TRAIN:
            normalize_dataset(name)
        self._cfg, self._mapper = cfg, mapper
        self._start, self._seed = 0, max(cfg.SEED, 0)
        self._records, self._order = self._records_and_order()
        self._is_wide = cache(lambda index: _is_wide(self._records[index]))

    def start_at(self, iteration: int, seed: int) -> None:
        """Say which batch comes first, before any is asked for."""
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
                generator=torch.Generator(),  # a loader draws a seed; not from the step's numbers
            )
        )

    def _batches(self) -> Iterator[list[Draw]]:
        size, rank = self._cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), comm.get_rank()
        grouping, groups = self._cfg.DATALOADER.ASPECT_RATIO_GROUPING, defaultdict(list)
        for position, index in enumerate(self._order):
            group = groups[grouping and self._is_wide(index)]
            group.append((index, (self._seed, position, rank, 1)))  # no step has such a place
            if len(group) == size:
                yield group[:]
                group.clear()

    def _records_and_order(self, **options: Any) -> tuple[Dataset, Sampler[int]]:
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.SEED, cfg.DATALOADER.ASPECT_RATIO_GROUPING = self._seed, False
        with seeded(self._seed):  # some samplers draw a seed and do not look at SEED
            stream = build_detection_train_loader(cfg, mapper=_record, **options).dataset
        return stream.dataset, stream.sampler


class _SeededItems(PlainlyPickled, Dataset):
    """Items of draws; their random numbers are those of a place in the order."""

    def __init__(self, records: Dataset, mapper: Mapper):
        self._records, self._mapper = records, mapper

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        index, place = draw
        with seeded(*place):
            return self._mapper(self._records[index])


def _record(record: dict[str, Any]) -> dict[str, Any]:
    return record


def _is_wide(record: dict[str, Any]) -> bool:
    if "width" in record:
        return record["width"] > record["height"]
    height, width = read_image_size(record["file_name"])
    return width > height
