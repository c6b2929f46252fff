"""Small torchvision detectors and batches."""

from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import CodecChoice
from cdl_d2.nn import LatentResNet
from cdl_d2.tv import Architecture, DetectorConfig, build_detector

TINY = Architecture(
    width=1 / 16,
    stem="conv1x1",
    norm="BN",
    channels=16,
    anchor_sizes=(8, 16, 32, 64, 128),
    proposals=50,
    anchors_sampled=32,
    proposals_sampled=16,
    box_features=16,
    mask_convolutions=1,
)
CODEC = CodecChoice("tiny-bmshj2018-hyperprior", 2)
CLASSES = ("disc", "square")


def tiny_config(domain: str = "latent", **changes) -> DetectorConfig:
    """The config of a tiny detector, with other values of its architecture."""
    architecture = replace(TINY, **changes)
    return DetectorConfig(CLASSES, domain, None if domain == "image" else CODEC, architecture)


def tiny_detector(domain: str = "latent", **changes):
    """The same random weights every time."""
    torch.manual_seed(0)
    return build_detector(tiny_config(domain, **changes))


def shallow(detector: torch.nn.Module) -> torch.nn.Module:
    """The detector with one block in each stage of its latent ResNet, which is exported fast."""
    trunk = next(m for m in detector.modules() if isinstance(m, LatentResNet))
    for stage in ("conv4_1", "conv4_2", "conv4_3", "conv5"):
        setattr(trunk, stage, getattr(trunk, stage)[:1])
    return detector


def make_item(height: int, width: int, boxes=((8, 8, 40, 40), (10, 20, 30, 30)), seed: int = 0):
    """A training item."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "target": {"boxes": boxes, "labels": 1 + torch.arange(len(boxes)) % 2, "masks": masks},
    }


@pytest.fixture
def items():
    return [make_item(70, 90), make_item(50, 130, seed=1)]
