"""Options of a run with torchvision, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from cdl_d2.errors import CdlError
from cdl_d2.transfer import OUTPUT_TERMS, DetectorTransfer
from cdl_d2.tv.checkpoint import check_teacher, keep_classes, load_rgb_detector
from cdl_d2.tv.detector_config import EVALUATION_SIZES, MODELS, Architecture, DetectorConfig
from cdl_d2.tv.schedule import Schedule
from cdl_d2.tv.transfer_mask_rcnn import TransferMaskRCNN

SHORT_EDGES = {"standard": (640, 672, 704, 736, 768, 800), "small": (256,)}  # of training
# Schedule of the small model, equal to the one in configs/detection/small/Base-small.yaml.
SHORT = Schedule(iterations=1000, batch_size=2, warmup=100, decays=(0.75, 0.93))


@dataclass(frozen=True)
class DetectorOptions:
    """Options of the detector.

    Attributes:
        domain: Input of the detector.
        model: standard, of the size of ResNet-50, or small, for two CPU cores.
        bridge: Part of an RGB ResNet that an input adapter (bridge) replaces: the first
            convolution (conv1), or all layers up to stem, res2 (stride 4) or res3 (stride 8);
            default none, a latent ResNet.
        boxes_only: Faster R-CNN, for data without masks.
        anchor_sizes: In pixels, one per pyramid level.
        initial_weights: Checkpoint of a detector of the same kind, or coco for torchvision's
            weights, with domain image.
        store_train: Latent store of the training images, by cdl data encode.
        store_val: Latent store of the evaluation images.
    """

    domain: Literal["latent", "reconstruction", "image"] = "latent"
    model: Literal["standard", "small"] = "standard"
    bridge: Literal["conv1", "stem", "res2", "res3"] | None = None
    boxes_only: bool = False
    anchor_sizes: tuple[int, int, int, int, int] | None = None
    initial_weights: str | None = None
    store_train: str | None = None
    store_val: str | None = None

    @property
    def architecture(self) -> Architecture:
        """Architecture of the detector."""
        changes = {"bridge": self.bridge or "", "masks": not self.boxes_only}
        if self.anchor_sizes:
            changes["anchor_sizes"] = self.anchor_sizes
        return replace(MODELS[self.model], **changes)


@dataclass(frozen=True)
class TransferOptions:
    """Options of the distillation.

    Attributes:
        teacher: Checkpoint of domain image, a file of torchvision's weights, or coco to download
            them.
        transfer: Outputs that are compared.
        lambda_: Weight of all transfer losses.
        distance: Distance between features, mse or l2norm.
        anchors: Anchors that are compared: all, or those that the task's own loss samples.
        masks: Proposals whose masks are compared; all takes longer.
        heads: Heads applied to the student's features for comparison.
    """

    teacher: str | None = None
    transfer: Literal["both", "features", "outputs"] = "both"
    lambda_: float = 1.0
    distance: str = "mse"
    anchors: Literal["all", "sampled"] = "all"
    masks: Literal["all", "foreground"] = "all"
    heads: Literal["student", "teacher"] = "student"

    def add_teacher(self, detector: nn.Module, config: DetectorConfig) -> nn.Module:
        """Return the detector as the student of the teacher; the detector itself without one.

        Raises:
            CdlError, OSError: if the teacher cannot be read or compared with the detector.
        """
        if not self.teacher:
            return detector
        teacher, teacher_config = load_rgb_detector(self.teacher)
        teacher_config = keep_classes(teacher, teacher_config, config.classes)
        check_teacher(config, teacher_config)
        levels = [set(d.roi_heads.box_roi_pool.featmap_names) for d in (detector, teacher)]
        if self.heads == "teacher" and levels[1] - levels[0]:
            raise CdlError(
                "the teacher's heads read a level that the student's pyramid lacks: compare by the "
                "student's heads"
            )
        return TransferMaskRCNN(detector, teacher, self._build_losses(detector.has_masks))

    def _build_losses(self, with_masks: bool) -> DetectorTransfer:
        terms = () if self.transfer == "features" else OUTPUT_TERMS
        terms = terms if self.transfer == "outputs" else (*terms, "features")
        return DetectorTransfer(
            self.lambda_,
            {term: 1.0 for term in terms if with_masks or term != "mask"},
            self.distance,
            anchors=self.anchors,
            masks=self.masks,
            heads=self.heads,
        )


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training and evaluation; defaults depend on the model.

    Attributes:
        iterations: Number of steps.
        batch_size: Images per step, over all processes.
        learning_rate: Learning rate after the warmup.
        warmup: Iterations of linear warmup.
        short_edges: Short edges of training images in pixels, one per image at random.
        short_edge_val: Short edge of evaluation images in pixels.
        max_size: Limit of the longer side in pixels.
        seed: Seed of weights and batches.
        device: cpu or cuda; default a GPU if there is one.
        precision: float16 and bfloat16 need a GPU.
        workers: Number of processes that load data.
        checkpoint_period: Iterations between checkpoints.
    """

    iterations: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.02
    warmup: int | None = None
    short_edges: list[int] | None = None
    short_edge_val: int | None = None
    max_size: int | None = None
    seed: int = 0
    device: str | None = None
    precision: str = "float32"
    workers: int = 0
    checkpoint_period: int = 250

    def schedule(self, model: str) -> Schedule:
        """Return the schedule of a model, `standard` or `small`, with the given values."""
        values = {name: getattr(self, name) for name in ("iterations", "batch_size", "warmup")}
        changes = {name: value for name, value in values.items() if value is not None}
        default = SHORT if model == "small" else Schedule()
        return replace(default, learning_rate=self.learning_rate, **changes)

    def sizes(self, model: str) -> dict[str, Any]:
        """Return short edges of training, short edge of evaluation and longest side, in pixels.

        Raises:
            CdlError: if one is not positive.
        """
        edge, longest = EVALUATION_SIZES[model]
        sizes = {
            "short_edges": list(self.short_edges or SHORT_EDGES[model]),
            "short_edge_val": edge if self.short_edge_val is None else self.short_edge_val,
            "max_size": longest if self.max_size is None else self.max_size,
        }
        if min(*sizes["short_edges"], sizes["short_edge_val"], sizes["max_size"]) < 1:
            raise CdlError(f"sizes {sizes}: each must be at least 1 pixel")
        return sizes
