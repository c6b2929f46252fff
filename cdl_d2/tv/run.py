"""A whole run on torchvision: train a detector, or evaluate one, from plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cdl_d2.codec import CodecChoice
from cdl_d2.data import LatentStore, Variant
from cdl_d2.device import usable_device
from cdl_d2.errors import CdlError
from cdl_d2.files import write_json
from cdl_d2.transfer import OUTPUT_TERMS, DetectorTransfer
from cdl_d2.tv.checkpoint import (
    check_teacher,
    keep_classes,
    load_detector,
    load_initial_weights,
    load_pixel_detector,
    read_checkpoint,
)
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.detector_config import (
    EVALUATION_SIZES,
    FIRST_CONVOLUTION,
    MODELS,
    DetectorConfig,
    build_detector,
)
from cdl_d2.tv.evaluation import evaluate
from cdl_d2.tv.trainer import (
    Schedule,
    Trainer,
    append_metrics,
    process_group,
    rank_and_world_size,
)
from cdl_d2.tv.transfer_mask_rcnn import TransferMaskRCNN

SHORT_EDGES = {"standard": (640, 672, 704, 736, 768, 800), "small": (256,)}  # of training
# Of the small model, as configs/detection/small/Base-small.yaml has it.
SHORT = Schedule(iterations=1000, batch_size=2, warmup=100, decays=(0.75, 0.93))
FLIPS = (False, True)


@dataclass(frozen=True)
class DetectorOptions:
    """What the detector is.

    Attributes:
        domain: What it looks at.
        model: standard, of ResNet-50's size, or small, which trains on two CPU cores.
        bridge: What of a pixel ResNet a latent takes the place of: its first convolution, conv1,
            or all up to its stem or res2 (stride 4) or res3 (stride 8); default a latent ResNet.
        boxes_only: Faster R-CNN, for data without masks.
        anchor_sizes: Pixels, one a pyramid level.
        initial_weights: A detector of the same kind, or coco for torchvision's, for domain image.
        store_train: A latent store to train from, by cdl data encode.
        store_val: A latent store to evaluate on.
    """

    domain: Literal["latent", "reconstruction", "image"] = "latent"
    model: Literal["standard", "small"] = "standard"
    bridge: Literal["conv1", "stem", "res2", "res3"] | None = None
    boxes_only: bool = False
    anchor_sizes: tuple[int, int, int, int, int] | None = None
    initial_weights: str | None = None
    store_train: str | None = None
    store_val: str | None = None


@dataclass(frozen=True)
class TransferOptions:
    """What the detector is taught.

    Attributes:
        teacher: A checkpoint of domain image, a file of torchvision's weights, or coco for its zoo.
        transfer: What is compared.
        lambda_: Weight of all transfer losses.
        distance: Between features, mse or l2norm.
        anchors: That are compared: all, or those that the task's own loss has sampled.
        masks: Proposals whose masks are compared; all takes longer.
        heads: Whose heads make outputs of the student's features, before they are compared.
    """

    teacher: str | None = None
    transfer: Literal["both", "features", "outputs"] = "both"
    lambda_: float = 1.0
    distance: str = "mse"
    anchors: Literal["all", "sampled"] = "all"
    masks: Literal["all", "foreground"] = "all"
    heads: Literal["student", "teacher"] = "student"

    def around(self, detector: nn.Module, config: DetectorConfig) -> nn.Module:
        """The detector, inside a module that teaches it if there is a teacher.

        Raises:
            CdlError, OSError: if the teacher cannot be read, or is too different.
        """
        if not self.teacher:
            return detector
        teacher, theirs = load_pixel_detector(self.teacher)
        theirs = keep_classes(teacher, theirs, config.classes)
        check_teacher(config, theirs)
        levels, known = (set(d.roi_heads.box_roi_pool.featmap_names) for d in (teacher, detector))
        if self.heads == "teacher" and levels - known:
            raise CdlError(
                "the teacher's heads look at a level that the student's pyramid has not: give "
                "--heads student"
            )
        terms = () if self.transfer == "features" else OUTPUT_TERMS
        terms = terms if self.transfer == "outputs" else (*terms, "features")
        if not detector.has_masks:
            terms = tuple(term for term in terms if term != "mask")
        weights = dict.fromkeys(terms, 1.0)
        losses = DetectorTransfer(
            self.lambda_,
            weights,
            self.distance,
            anchors=self.anchors,
            masks=self.masks,
            heads=self.heads,
        )
        return TransferMaskRCNN(detector, teacher, losses)


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, and at which sizes; what is not given follows from the model.

    Attributes:
        iterations: Steps.
        batch_size: Images a step, over all processes.
        learning_rate: After the warmup.
        warmup: Iterations.
        short_edges: Sizes of training images, in pixels.
        short_edge_val: Size of images in evaluation.
        max_size: Of the longer side.
        seed: Of weights and batches.
        device: cpu or cuda; default a GPU if there is one.
        precision: float16 and bfloat16 need a GPU.
        workers: Processes that load data.
        checkpoint_period: Iterations.
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
        """The schedule of a model, with what is given."""
        given = {name: getattr(self, name) for name in ("iterations", "batch_size", "warmup")}
        known = {name: value for name, value in given.items() if value is not None}
        default = SHORT if model == "small" else Schedule()
        return replace(default, learning_rate=self.learning_rate, **known)

    def sizes(self, model: str) -> dict[str, Any]:
        """Short edges of training, short edge of evaluation, and the longest side, in pixels.

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
            raise CdlError(f"sizes {sizes}: every one needs at least 1 pixel")
        return sizes


@dataclass(frozen=True)
class Run:
    """A training, or an evaluation, and the folder of its results.

    Attributes:
        val: Annotations and images to evaluate on.
        output: Folder for checkpoints and results.
        codec: For latents and reconstructions.
    """

    val: tuple[str, str]
    output: Path
    detector: DetectorOptions = DetectorOptions()
    codec: CodecChoice | None = None
    transfer: TransferOptions = TransferOptions()
    training: TrainingOptions = TrainingOptions()

    def train(self, train: tuple[str, str], resume: bool = False) -> dict[str, Any] | None:
        """Train, then evaluate.

        Args:
            train: annotations and images to train on.
            resume: go on from the output folder's checkpoint, if there is one.

        Returns:
            `bbox` and perhaps `segm` and `rate`; in the first of several processes.

        Raises:
            CdlError, OSError: for options that do not fit each other, or files that cannot be used.
        """
        options, transfer, training = self.detector, self.transfer, self.training
        if options.bridge and options.domain != "latent":
            raise CdlError(f"--bridge {options.bridge} is for domain latent, not {options.domain}")
        if training.iterations == 0 and options.bridge != FIRST_CONVOLUTION:
            raise CdlError("--iterations 0 fits a bridge and trains nothing: add --bridge conv1")
        given_device = usable_device(training.device)
        schedule, sizes = training.schedule(options.model), training.sizes(options.model)
        self.output.mkdir(parents=True, exist_ok=True)
        if not resume and (self.output / "checkpoint.pth").exists():
            raise CdlError(
                f"{self.output} has a checkpoint: add --resume to go on, or take another folder"
            )
        dataset = self._training_items(train, sizes)
        self._validation_items(dataset.classes)  # an error now, not after training
        config = self._config(dataset.classes)
        if (
            options.model == "standard"
            and options.domain != "latent"
            and not options.initial_weights
        ):
            raise CdlError(
                "the standard pixel network has frozen normalization and cannot learn from "
                "scratch: give --initial-weights coco, or a file, or --model small"
            )
        with process_group(given_device) as device:
            torch.manual_seed(training.seed)
            detector = build_detector(config)
            if options.initial_weights:
                loaded = load_initial_weights(detector, options.initial_weights)
                print(f"{loaded} entries of the detector start from {options.initial_weights}")
            trainer = Trainer(
                config,
                detector,
                transfer.around(detector, config),
                dataset,
                schedule,
                self.output,
                seed=training.seed,
                device=device,
                precision=training.precision,
                workers=training.workers,
                checkpoint_period=training.checkpoint_period,
                settings={
                    "train": list(train),
                    "store_train": options.store_train,
                    "initial_weights": options.initial_weights,
                    "precision": training.precision,
                    **asdict(transfer),
                    **sizes,
                },
            )
            if resume:
                print(f"training from iteration {trainer.resume()}")
            trainer.train()
            return None if rank_and_world_size()[0] else self._evaluate(detector, config)

    def evaluate_only(self, checkpoint: str) -> dict[str, Any]:
        """Evaluate a detector, at the sizes that it was trained with unless others are given.

        One of original images may be shown decoded ones; any other comes with its codec, of which
        one of several qualities can be chosen.

        Returns:
            `bbox` and perhaps `segm` and `rate`.

        Raises:
            CdlError, OSError: if the checkpoint cannot be read, or looks at something else.
        """
        device = usable_device(self.training.device)
        detector, config = load_detector(checkpoint)
        trained = read_checkpoint(checkpoint).get("training", {})
        missing = {
            name: trained.get(name)
            for name in ("short_edge_val", "max_size")
            if getattr(self.training, name) is None
        }
        run = replace(self, training=replace(self.training, **missing))
        decoding = config.domain == "image" and self.detector.domain == "reconstruction"
        shown = config
        if decoding:
            shown = replace(config, domain="reconstruction", codec=self._needed_codec())
        elif self.codec:
            shown = replace(config, codec=self._one_of(config.codec, checkpoint))
        if shown != config:
            state, config, detector = detector.state_dict(), shown, build_detector(shown)
            detector.load_state_dict(state)
        self.output.mkdir(parents=True, exist_ok=True)
        return run._evaluate(detector.to(device), config)

    def _evaluate(self, detector: nn.Module, config: DetectorConfig) -> dict[str, Any]:
        """COCO AP and rate, also in the output folder's results.json and metrics.json."""
        results = evaluate(
            detector, self._validation_items(config.classes), self.output / "inference"
        )
        flat = {f"{task}/{name}": v for task, each in results.items() for name, v in each.items()}
        append_metrics(self.output, flat)
        write_json(self.output / "results.json", results)
        return results

    def _config(self, classes: tuple[str, ...]) -> DetectorConfig:
        bridge, masks = self.detector.bridge or "", not self.detector.boxes_only
        architecture = replace(MODELS[self.detector.model], bridge=bridge, masks=masks)
        if self.detector.anchor_sizes:
            architecture = replace(architecture, anchor_sizes=self.detector.anchor_sizes)
        codec = None if self.detector.domain == "image" else self._needed_codec()
        return DetectorConfig(classes, self.detector.domain, codec, architecture)

    def _one_of(self, known: CodecChoice | None, checkpoint: str) -> CodecChoice:
        """The codec that a detector reads, at the quality that was asked for."""
        wanted = replace(self.codec, qualities=())
        for quality in known.qualities or (known.quality,) if known else ():
            if replace(known, quality=quality, qualities=()) == wanted:
                return replace(known, quality=quality)
        raise CdlError(
            f"{checkpoint} reads {known}, not --codec {wanted.name} --quality {wanted.quality}"
        )

    def _needed_codec(self) -> CodecChoice:
        if self.codec is None:
            raise CdlError(f"domain {self.detector.domain} needs --codec and --quality")
        return self.codec

    def _training_items(self, train: tuple[str, str], sizes: dict[str, Any]) -> CocoItems:
        edges, longest = sizes["short_edges"], sizes["max_size"]
        variants = [Variant(edge, longest, flip) for edge in edges for flip in FLIPS]
        if self.detector.store_train and self.codec and self.codec.qualities:
            raise CdlError(
                "a latent store has one quality, and the detector is to be trained on several: "
                "leave out --store-train, or --qualities"
            )
        store = self._store(self.detector.store_train)
        with_image = store is None or bool(self.transfer.teacher)
        return CocoItems(
            *train,
            variants,
            training=True,
            store=store,
            with_image=with_image,
            with_masks=not self.detector.boxes_only,
        )

    def _validation_items(self, classes: tuple[str, ...]) -> CocoItems:
        """The images to evaluate on, whose classes must be the detector's."""
        sizes = self.training.sizes(self.detector.model)
        variant = Variant(sizes["short_edge_val"], sizes["max_size"])
        store = self._store(self.detector.store_val)
        dataset = CocoItems(
            *self.val, [variant], training=False, store=store, with_image=store is None
        )
        if dataset.classes != classes:
            raise CdlError(
                f"{self.val[0]} has the classes {', '.join(dataset.classes)}; the detector knows "
                f"{', '.join(classes)}"
            )
        return dataset

    def _store(self, folder: str | None) -> LatentStore | None:
        if not folder:
            return None
        if self.detector.domain != "latent":
            raise CdlError(f"a latent store has nothing for domain {self.detector.domain}")
        choice = self._needed_codec()
        return LatentStore(folder, choice.load(), *choice.load_others())
