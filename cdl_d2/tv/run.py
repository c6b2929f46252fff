"""A whole run on torchvision: train a detector, or evaluate one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdl_d2.codec import CodecChoice
from cdl_d2.data import LatentStore, Variant
from cdl_d2.device import usable_device, use_channels_last
from cdl_d2.errors import CdlError
from cdl_d2.files import write_json
from cdl_d2.nn.bridge.bridge import FIRST_CONVOLUTION
from cdl_d2.tv.checkpoint import load_detector, load_initial_weights, read_checkpoint
from cdl_d2.tv.coco_items import CocoItems
from cdl_d2.tv.detector_config import DetectorConfig, build_detector
from cdl_d2.tv.evaluation import evaluate
from cdl_d2.tv.metrics_log import append_metrics
from cdl_d2.tv.options import DetectorOptions, TrainingOptions, TransferOptions
from cdl_d2.tv.processes import process_group, rank_and_world_size
from cdl_d2.tv.trainer import Trainer

FLIPS = (False, True)


@dataclass(frozen=True)
class Run:
    """A training or an evaluation, and the folder of its results.

    Attributes:
        val: annotations and images for evaluation.
        output: folder of checkpoints and results.
        detector: options of the detector.
        codec: codec of latents and reconstructions; None for domain `image`.
        transfer: options of the distillation.
        training: options of training and evaluation.
    """

    val: tuple[str, str]
    output: Path
    detector: DetectorOptions
    codec: CodecChoice | None
    transfer: TransferOptions
    training: TrainingOptions

    def train(self, train: tuple[str, str], resume: bool = False) -> dict[str, Any] | None:
        """Train, then evaluate.

        Args:
            train: annotations and images for training.
            resume: continue from the output folder's checkpoint, if there is one.

        Returns:
            metrics by task, as `evaluate` returns them; None in all processes but the first.

        Raises:
            CdlError, OSError: if options do not fit each other, or files cannot be used.
        """
        options, training = self.detector, self.training
        self._check_options()
        usable = usable_device(training.device)
        schedule, sizes = training.schedule(options.model), training.sizes(options.model)
        self.output.mkdir(parents=True, exist_ok=True)
        if not resume and (self.output / "checkpoint.pth").exists():
            raise CdlError(f"{self.output} has a checkpoint: resume it, or take another folder")
        dataset = self._training_items(train, sizes)
        self._validation_items(dataset.classes)  # errors now, not after training
        codec = None if options.domain == "image" else self._needed_codec()
        config = DetectorConfig(dataset.classes, options.domain, codec, options.architecture)
        settings = {
            "train": list(train),
            "store_train": options.store_train,
            "initial_weights": options.initial_weights,
            "precision": training.precision,
            **asdict(self.transfer),
            **sizes,
        }
        with process_group(usable) as device:
            torch.manual_seed(training.seed)
            detector = build_detector(config)
            if options.initial_weights:
                count = load_initial_weights(detector, options.initial_weights)
                print(f"{count} entries are initialized from {options.initial_weights}")
            trainer = Trainer(
                config,
                detector,
                self.transfer.add_teacher(detector, config),
                dataset,
                schedule,
                self.output,
                seed=training.seed,
                device=device,
                precision=training.precision,
                workers=training.workers,
                checkpoint_period=training.checkpoint_period,
                settings=settings,
            )
            if resume:
                print(f"training from iteration {trainer.resume()}")
            trainer.train()
            return None if rank_and_world_size()[0] else self._evaluate(detector, config)

    def evaluate_only(self, checkpoint: str) -> dict[str, Any]:
        """Evaluate a detector, by default at the sizes of its training.

        An RGB detector can be evaluated on reconstructed images. Any other detector uses its own
        codec; if it reads several qualities, one can be chosen.

        Returns:
            metrics by task, as `evaluate` returns them.

        Raises:
            CdlError, OSError: if the checkpoint cannot be read, or its input is another.
        """
        device = usable_device(self.training.device)
        content = read_checkpoint(checkpoint)
        detector, trained = load_detector(checkpoint, content)
        settings = content.get("training", {})
        missing = {
            name: settings.get(name)
            for name in ("short_edge_val", "max_size")
            if getattr(self.training, name) is None
        }
        run = replace(self, training=replace(self.training, **missing))
        config = trained
        if trained.domain == "image" and self.detector.domain == "reconstruction":
            config = replace(trained, domain="reconstruction", codec=self._needed_codec())
        elif self.codec:
            config = replace(trained, codec=self._choose_quality(trained.codec, checkpoint))
        if config != trained:
            state, detector = detector.state_dict(), build_detector(config)
            detector.load_state_dict(state)
        self.output.mkdir(parents=True, exist_ok=True)
        return run._evaluate(use_channels_last(detector.to(device)), config)

    def _evaluate(self, detector: nn.Module, config: DetectorConfig) -> dict[str, Any]:
        """Evaluate, and write `results.json` and a line of `metrics.json`."""
        dataset = self._validation_items(config.classes)
        results = evaluate(detector, dataset, self.output / "inference")
        metrics = {f"{t}/{name}": v for t, values in results.items() for name, v in values.items()}
        append_metrics(self.output, metrics)
        write_json(self.output / "results.json", results)
        return results

    def _check_options(self) -> None:
        options = self.detector
        if options.bridge and options.domain != "latent":
            raise CdlError(f"bridge {options.bridge} needs domain latent, not {options.domain}")
        if self.training.iterations == 0 and options.bridge != FIRST_CONVOLUTION:
            raise CdlError(
                "0 iterations fit a bridge and train nothing: take bridge "
                f"{FIRST_CONVOLUTION}, or more iterations"
            )
        if options.store_train and self.codec and self.codec.qualities:
            raise CdlError(
                "a latent store has one quality, and the detector reads several: train it without "
                "a store, or for one quality"
            )
        from_scratch = options.domain != "latent" and not options.initial_weights
        if options.model == "standard" and from_scratch:
            raise CdlError(
                "the standard RGB network has frozen normalization and cannot be trained from "
                "scratch: take initial weights such as coco, or the small model"
            )

    def _choose_quality(self, codec: CodecChoice | None, checkpoint: str) -> CodecChoice:
        """Return the detector's codec at the requested quality."""
        requested = replace(self.codec, qualities=())
        for quality in codec.qualities or (codec.quality,) if codec else ():
            if replace(codec, quality=quality, qualities=()) == requested:
                return replace(codec, quality=quality)
        raise CdlError(
            f"{checkpoint} reads {codec}, not {requested.name} of quality {requested.quality}"
        )

    def _needed_codec(self) -> CodecChoice:
        if self.codec is None:
            raise CdlError(f"domain {self.detector.domain} needs a codec and its quality")
        return self.codec

    def _training_items(self, train: tuple[str, str], sizes: dict[str, Any]) -> CocoItems:
        edges, longest = sizes["short_edges"], sizes["max_size"]
        store = self._open_store(self.detector.store_train)
        return CocoItems(
            *train,
            [Variant(edge, longest, flip) for edge in edges for flip in FLIPS],
            training=True,
            store=store,
            with_image=store is None or bool(self.transfer.teacher),
            with_masks=not self.detector.boxes_only,
        )

    def _validation_items(self, classes: tuple[str, ...]) -> CocoItems:
        """Return the evaluation images.

        Raises:
            CdlError: if their classes are not the detector's.
        """
        sizes = self.training.sizes(self.detector.model)
        variant = Variant(sizes["short_edge_val"], sizes["max_size"])
        store = self._open_store(self.detector.store_val)
        dataset = CocoItems(
            *self.val, [variant], training=False, store=store, with_image=store is None
        )
        if dataset.classes != classes:
            raise CdlError(
                f"{self.val[0]} has the classes {', '.join(dataset.classes)}; the detector has "
                f"{', '.join(classes)}"
            )
        return dataset

    def _open_store(self, folder: str | None) -> LatentStore | None:
        if not folder:
            return None
        if self.detector.domain != "latent":
            raise CdlError(f"a latent store cannot be used with domain {self.detector.domain}")
        return LatentStore(folder, *self._needed_codec().load_all())
