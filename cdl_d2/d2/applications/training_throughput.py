"""Throughput of training from image files, latent stores and bitstreams, and what bounds it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage

from cdl_d2.d2.data.store_mapper import list_variants
from cdl_d2.d2.engine.trainer import Trainer
from cdl_d2.d2.model_input import build_codec
from cdl_d2.d2.tasks import get_task, keep_names
from cdl_d2.data import Plan, Variant
from cdl_d2.data.store.whole_dataset import encode_dataset
from cdl_d2.device import synchronize, use_channels_last
from cdl_d2.errors import CdlError

SUBSET = "images of a benchmark"  # name of the data set
FORMS = {"latent store": "arrays", "bitstreams": "bitstreams"}
NETWORK_STEPS = 3


def time_training(
    cfg: CfgNode, rgb_cfg: CfgNode | None, count: int, workers: int
) -> list[dict[str, Any]]:
    """Measure training from each source, over all images, in one run.

    Weights are random, and evaluation and checkpoints are left out.

    Args:
        cfg: config of a model of latents, with a data set for training.
        rgb_cfg: config of the RGB model to compare with; None to leave it out.
        count: number of images, at least a batch.
        workers: processes that read samples; 0 for none beside this one.

    Returns:
        a row per `source`: `images, encoded` in the loader, `images, RGB model`, `latent store` and
        `bitstreams`; `images/s` of an epoch; milliseconds per image of `reading` alone (with the
        workers) and of the `network`'s steps alone; and which of the two the epoch is `bound by`.

    Raises:
        CdlError: if the model does not read latents, or there are fewer images than a batch.
    """
    if cfg.INPUT.DOMAIN != "latent":
        raise CdlError(f"the model takes domain {cfg.INPUT.DOMAIN!r}: expected latent")
    if count < cfg.SOLVER.IMS_PER_BATCH:
        raise CdlError(f"{count} images are fewer than a batch of {cfg.SOLVER.IMS_PER_BATCH}")
    with tempfile.TemporaryDirectory() as folder, _subset(cfg.DATASETS.TRAIN[0], count):
        options = ["DATASETS.TRAIN", (SUBSET,), "DATASETS.TEST", (), "OUTPUT_DIR", folder]
        options += ["DATALOADER.NUM_WORKERS", workers]
        sources = {"images, encoded": _changed(cfg, *options, "INPUT.LATENT_SOURCE", "mapper")}
        if rgb_cfg is not None:
            sources["images, RGB model"] = _changed(rgb_cfg, *options)
        for source, form in FORMS.items():
            store = _encode(sources["images, encoded"], form, Path(folder, form), workers)
            keys = "INPUT.LATENT_SOURCE", "store", "INPUT.LATENT_STORE_TRAIN", store
            sources[source] = _changed(cfg, *options, *keys)
        return [{"source": source} | _time_epoch(c, count) for source, c in sources.items()]


def _changed(cfg: CfgNode, *options: Any) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(options))
    keep_names(cfg)
    return cfg


@contextmanager
def _subset(name: str, count: int) -> Iterator[None]:
    """Register the first records of a data set as SUBSET within the block."""
    records = DatasetCatalog.get(name)[:count]
    if len(records) < count:
        raise CdlError(f"the data set {name} has {len(records)} images, fewer than {count}")
    metadata = {k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k != "name"}
    DatasetCatalog.register(SUBSET, lambda: records)
    MetadataCatalog.get(SUBSET).set(**metadata)
    try:
        yield
    finally:
        DatasetCatalog.remove(SUBSET)
        MetadataCatalog.remove(SUBSET)


def _encode(cfg: CfgNode, form: str, output: Path, workers: int) -> str:
    """Encode the images in all variants that a training draws from; return the store's folder."""
    paths = [Path(record["file_name"]).absolute() for record in DatasetCatalog.get(SUBSET)]
    images = Path(os.path.commonpath([path.parent for path in paths]))
    one_size = get_task(cfg).of_one_size
    variants = [Variant(cfg.INPUT.IMAGE_SIZE)] if one_size else list_variants(cfg, is_train=True)
    codec = build_codec(cfg)
    names = tuple(path.relative_to(images).as_posix() for path in paths)
    plan = Plan(codec.identity, form, tuple(variants), names)
    encode_dataset(codec, plan, images, output, print, workers=workers)
    return str(output)


def _time_epoch(cfg: CfgNode, count: int) -> Mapping[str, Any]:
    """Return the throughput, and the milliseconds per image of its two parts."""
    batch_size, device = cfg.SOLVER.IMS_PER_BATCH, torch.device(cfg.MODEL.DEVICE)
    model = use_channels_last(Trainer.build_model(cfg)).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    steps = count // batch_size

    def step(batch: list[dict[str, Any]]) -> None:
        optimizer.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        optimizer.step()

    def run(batches: int, act: bool) -> float:
        """Return the seconds of the batches after the first, for which workers start."""
        loader = islice(Trainer.build_train_loader(cfg), batches + 1)
        first = next(loader)
        if act:
            step(first)
        begin = time.perf_counter()
        for batch in loader:
            if act:
                step(batch)
        synchronize(device)
        return time.perf_counter() - begin

    whole, reading = run(steps, act=True), run(steps, act=False)
    (batch,) = islice(Trainer.build_train_loader(cfg), 1)
    begin = time.perf_counter()
    for _ in range(NETWORK_STEPS):
        step(batch)
    synchronize(device)
    network = (time.perf_counter() - begin) / NETWORK_STEPS
    return {
        "images/s": steps * batch_size / whole,
        "reading": 1000 * reading / (steps * batch_size),
        "network": 1000 * network / batch_size,
        "bound by": "reading" if reading / steps > network else "network",
    }
