"""The parts of a detector's cost, each a function to be timed: coding, detection, training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from cdl_d2.codec.codec import UNTRAINED
from cdl_d2.d2.modeling.coded_input import build_codec
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.modeling.meta_arch.transfer_rcnn import TransferRCNN
from cdl_d2.d2.modeling.optimizers import build_optimizer
from cdl_d2.d2.modeling.teacher import build_pixel_network, teacher_config

OBJECTS = 10


def measured_parts(cfg: CfgNode, size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """By name, what a TransferRCNN with random weights does with a random image.

    Args:
        size: height and width of the image in pixels.
    """
    torch.manual_seed(0)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CODEC.WEIGHTS = UNTRAINED
    cfg.SOLVER.BASE_LR = 0.0  # steps cost the same, and the random detector does not diverge
    theirs = teacher_config(cfg)
    for each in (cfg, theirs):
        if each.MODEL.RESNETS.NORM == "FrozenBN":  # random weights under a frozen norm overflow
            each.MODEL.RESNETS.NORM = "BN"
        # Random detectors find nothing or a hundred things, by chance: let both find nothing.
        each.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0
    teacher = build_pixel_network(theirs).eval()
    student = TransferRCNN(**TransferRCNN.from_config(cfg) | {"teacher": teacher})
    student.to(cfg.MODEL.DEVICE)
    optimizer = build_optimizer(cfg, student)
    codec = build_codec(cfg).to(cfg.MODEL.DEVICE)

    item = _random_item(size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    pixels = item["image"].to(cfg.MODEL.DEVICE).flip(0).float() / 255
    latent = codec.encode(pixels)
    encoded = student.encode([item])
    decoded = [{"image": codec.decode(latent).flip(0) * 255}]

    def train(forward: Callable) -> None:
        student.train()
        with EventStorage():
            losses = sum(forward(encoded).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    def detect(network, batch) -> None:
        network.eval()
        with torch.no_grad():
            network(batch)

    return {
        "encode": lambda: codec.encode(pixels),
        "decode": lambda: codec.decode(latent),
        "pixel_detector": lambda: detect(teacher, decoded),
        "latent_detector": lambda: detect(student, encoded),
        "train_step": lambda: train(lambda batch: CompressedRCNN.forward(student, batch)),
        "train_step_transfer": lambda: train(student),
    }


def _random_item(size: tuple[int, int], classes: int) -> dict:
    height, width = size
    corners = torch.rand(OBJECTS, 2) * torch.tensor([width - 200, height - 200])
    boxes = torch.cat([corners, corners + 100 + torch.rand(OBJECTS, 2) * 100], dim=1).round()
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    instances = Instances(size, gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    instances.gt_classes = torch.arange(OBJECTS) % classes
    return {"image": torch.randint(0, 256, (3, *size)), "instances": instances}
