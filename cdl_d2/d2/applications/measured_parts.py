"""Parts of a detector's cost, as functions to be timed: coding, detection and training.

RGB and latent detector do the same work behind their backbones: they share all weights of the same
shape, and the outputs of their heads are replaced by fixed scores and detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from cdl_d2.codec.networks import UNTRAINED
from cdl_d2.d2.lazy_config import LazyModel
from cdl_d2.d2.model_input import architecture_of
from cdl_d2.d2.modeling.meta_arch.compressed_rcnn import CompressedRCNN
from cdl_d2.d2.modeling.meta_arch.transfer_rcnn import TransferRCNN
from cdl_d2.d2.modeling.optimizers import build_optimizer
from cdl_d2.d2.modeling.teacher import build_untrained_teacher
from cdl_d2.device import use_channels_last
from cdl_d2.errors import CdlError

OBJECTS = 10


def measured_parts(cfg: CfgNode, size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    """Return the parts of a TransferRCNN with random weights, on a random image, by name.

    Args:
        cfg: config of the student.
        size: height and width of the image in pixels.

    Raises:
        CdlError: if student or teacher is not an R-CNN.
    """
    torch.manual_seed(0)
    student, teacher, cfg = _detectors(cfg)
    optimizer = build_optimizer(cfg, student)
    item = _random_item(size, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    encoded = student.encode([item])

    def train(forward: Callable) -> None:
        student.train()
        with EventStorage():
            losses = sum(forward(encoded).values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    return {
        **_parts_without_training(student, teacher, item),
        "train_step": lambda: train(lambda batch: CompressedRCNN.forward(student, batch)),
        "train_step_transfer": lambda: train(student),
    }


def measured_lazy_parts(
    lazy: LazyModel, size: tuple[int, int], device: str
) -> dict[str, Callable[[], object]]:
    """Return the parts of the R-CNN of a LazyConfig, except training; as measured_parts.

    Args:
        lazy: config of an R-CNN with a `bridge`; the RGB model is the one that it replaces.
        size: height and width of the image in pixels.
        device: `cpu` or `cuda`.

    Raises:
        CdlError: for another model.
    """
    if not issubclass(lazy.architecture, CompressedRCNN):
        raise CdlError(f"{lazy.file} is of a {lazy.architecture.__name__}; expected CompressedRCNN")
    torch.manual_seed(0)
    lazy = lazy.with_untrained_codec()
    student, rgb_model = lazy.build(device).eval(), lazy.rgb_version().build(device).eval()
    rgb_model.load_state_dict(student.state_dict(), strict=False)
    for network in (student, rgb_model):
        use_channels_last(network)
    item = {"image": torch.randint(0, 256, (3, *size))}
    return _parts_without_training(student, rgb_model, item)


@torch.no_grad()
def _parts_without_training(
    student: CompressedRCNN, rgb_model: GeneralizedRCNN, item: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    """Return coding of an item's image, and detection from the decoded image and the latent."""
    coded_input = student.coded_input
    codec = coded_input.codec_on(student.device)
    pixels = coded_input.swap(item["image"].to(student.device)).float() / 255
    latent = codec.encode(pixels)
    decoded = [{"image": coded_input.swap(codec.decode(latent)) * 255}]
    return {
        "encode": lambda: codec.encode(pixels),
        "decode": lambda: codec.decode(latent),
        **_detection_parts("pixel", rgb_model, decoded),
        **_detection_parts("latent", student, student.encode([item])),
    }


def _detectors(cfg: CfgNode) -> tuple[TransferRCNN, GeneralizedRCNN, CfgNode]:
    """Return student and teacher, which share all weights of the same shape, and their config."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CODEC.WEIGHTS = UNTRAINED
    cfg.SOLVER.BASE_LR = 0.0  # steps cost the same, and the random detector does not diverge
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":  # random weights under a frozen norm overflow
        cfg.MODEL.RESNETS.NORM = "BN"
    name = cfg.MODEL.META_ARCHITECTURE
    if not issubclass(architecture_of(cfg), GeneralizedRCNN):
        raise CdlError(f"MODEL.META_ARCHITECTURE {name} is no R-CNN, and only these are measured")
    teacher = use_channels_last(build_untrained_teacher(cfg).eval())
    if not isinstance(teacher, GeneralizedRCNN):
        raise CdlError(
            f"the teacher {cfg.MODEL.TEACHER.CONFIG_FILE} is a {type(teacher).__name__}, and no "
            "R-CNN, and only these are measured"
        )
    for predictor in _box_predictors(teacher):
        predictor.test_topk_per_image = cfg.TEST.DETECTIONS_PER_IMAGE
    student = TransferRCNN(**TransferRCNN.from_config(cfg) | {"teacher": teacher})
    use_channels_last(student.to(cfg.MODEL.DEVICE))
    own = student.state_dict()
    shared = {
        name: value
        for name, value in teacher.state_dict().items()
        if name in own and own[name].shape == value.shape
    }
    student.load_state_dict(own | shared)
    return student, teacher, cfg


@torch.no_grad()
def _detection_parts(
    name: str, network: GeneralizedRCNN, items: list[dict[str, Any]]
) -> dict[str, Callable[[], object]]:
    """Return a detector and its two halves, `NAME_detector`, `NAME_backbone` and `NAME_heads`."""
    network.eval()
    selects = isinstance(network, CompressedRCNN)
    images = network.preprocess_image(network.select_channels(items) if selects else items)
    features = network.backbone(images.tensor)

    @torch.no_grad()
    def run(part: Callable[[], object]) -> None:
        network.eval()
        with _fixed_outputs(network):
            part()

    def detect_from_features() -> None:
        proposals, _ = network.proposal_generator(images, features)
        network.roi_heads(images, features, proposals)

    return {
        f"{name}_backbone": lambda: run(lambda: network.backbone(images.tensor)),
        f"{name}_heads": lambda: run(detect_from_features),
        f"{name}_detector": lambda: run(lambda: network(items)),
    }


@contextmanager
def _fixed_outputs(network: GeneralizedRCNN) -> Iterator[None]:
    """Replace the outputs of the heads by fixed ones within the block.

    Proposals are the first anchors in a fixed random order, and detections the first proposals.
    """
    hooks = [network.proposal_generator.rpn_head.register_forward_hook(_fixed_anchors)]
    hooks += [p.register_forward_hook(_fixed_detections) for p in _box_predictors(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _box_predictors(network: GeneralizedRCNN) -> list[nn.Module]:
    """Return the layer that scores boxes, or one per stage of a cascade."""
    predictors = network.roi_heads.box_predictor
    return list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]


def _fixed_anchors(head: nn.Module, inputs: Any, outputs: Any) -> tuple[list[torch.Tensor], ...]:
    """Return random but fixed logits of anchors, N x A x h x w per level, and zero deltas."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(level.shape, generator=generator).to(level) for level in outputs[0]]
    return logits, [torch.zeros_like(level) for level in outputs[1]]


def _fixed_detections(head: nn.Module, inputs: Any, outputs: Any) -> tuple[torch.Tensor, ...]:
    """Return logits, R x (K + 1) with the background last, and zero deltas.

    The first proposals are detections of all classes in turn, as many as the predictor keeps.
    """
    logits, deltas = torch.zeros_like(outputs[0]), torch.zeros_like(outputs[1])
    logits[:, -1] = 20
    rows = torch.arange(min(head.test_topk_per_image, len(logits)), device=logits.device)
    logits[rows, rows % (logits.shape[1] - 1)] = 40
    return logits, deltas


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
