"""Statistics of the latents of a config's training data, and rankings of their channels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from tqdm import tqdm

from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.engine.trainer import Trainer
from cdl_d2.d2.model_input import build_codec
from cdl_d2.d2.tasks import build_mapper, check_datasets
from cdl_d2.errors import CdlError
from cdl_d2.nn.input.coded_input import CodedInput
from cdl_d2.nn.selection.channel_ranking import ChannelRanking
from cdl_d2.nn.selection.channel_selection import ChannelGate, gate_scores
from cdl_d2.nn.selection.statistics import latent_statistics, save_statistics


def write_statistics(cfg: CfgNode, count: int, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Write each channel's mean and standard deviation, for MODEL.LATENT_RESNET.STATISTICS.

    Args:
        cfg: config with the training data, which is augmented as in training.
        count: number of images.
        path: file to write.

    Returns:
        M means and M standard deviations.

    Raises:
        CdlError, OSError: for data that does not fit the config, or an unwritable file.
    """
    check_datasets(cfg)
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = build_codec(cfg)
    mean, std = latent_statistics(_training_latents(cfg, count))
    save_statistics(path, mean.cpu(), std.cpu(), codec.identity)
    return mean, std


def _training_latents(cfg: CfgNode, count: int) -> Iterator[torch.Tensor]:
    coded_input = CodedInput("latent", build_codec(cfg), cfg.INPUT.FORMAT)
    items = (item for batch in Trainer.build_train_loader(cfg) for item in batch)
    for item in tqdm(islice(items, count), total=count, unit="image"):
        yield coded_input.encode(item, cfg.MODEL.DEVICE, with_bits=False)["latent"]


@torch.no_grad()
def rank_channels(
    cfg: CfgNode, by: str, images: int | None = None, count: int | None = None
) -> ChannelRanking:
    """Rank the channels of the config's codec for static selections.

    Args:
        cfg: config with the training data.
        by: criterion: `gate`, how often the gate of MODEL.WEIGHTS keeps a channel; or `variance`
            (the baseline of Wang et al., 2022).
        images: number of training images; None for all.
        count: number of channels that will be kept, to check it now.

    Raises:
        CdlError, OSError: for a config without latents, or without a gate; for a count above the
            number of channels.
    """
    if cfg.INPUT.DOMAIN != "latent":
        raise CdlError(f"INPUT.DOMAIN {cfg.INPUT.DOMAIN!r} has no channels: expected latent")
    if images is not None and images < 1:
        raise CdlError(f"--images {images}: at least 1 is needed")
    check_datasets(cfg)
    cfg.INPUT.LATENT_SOURCE = "model"
    model = Trainer.build_model(cfg).eval()
    channels = build_codec(cfg).latent_channels
    if count is not None and count > channels:
        raise CdlError(f"--count {count}: {cfg.MODEL.CODEC.NAME} has {channels} channels")
    if by == "gate":
        if model.selection is None or not isinstance(model.selection.chooser, ChannelGate):
            raise CdlError(
                "the config has no gate: set MODEL.SELECTION.KIND gate, or --by variance"
            )
        load_all_weights(model, cfg.MODEL.WEIGHTS)
    names = list(cfg.DATASETS.TRAIN)
    loader = build_detection_test_loader(cfg, names, mapper=build_mapper(cfg, is_train=False))
    items = tqdm(islice(loader, images), total=images or len(loader), unit="image")
    encoded = (model.encode(batch)[0] for batch in items)
    if by == "variance":
        scores = latent_statistics((sample["latent"] for sample in encoded), smallest_std=0.0)[1]
    else:
        pairs = ((sample["latent"], sample["channel_bits"]) for sample in encoded)
        scores = gate_scores(model.selection.chooser, pairs).cpu()
    return ChannelRanking.from_scores(scores, by, build_codec(cfg).identity)
