#!/usr/bin/env python
"""Train or evaluate Mask R-CNN on latents with torchvision alone, on COCO-format data.

Examples:
    # a teacher on original images, then a student on latents
    python tools/train_torchvision.py --model small --domain image --output output/teacher \\
        --train cells/train.json cells/train --val cells/val.json cells/val
    python tools/train_torchvision.py --model small --codec tiny-bmshj2018-hyperprior --quality 2 \\
        --teacher output/teacher/model_final.pth --output output/student \\
        --train cells/train.json cells/train --val cells/val.json cells/val

    # the same teacher on decoded images, which is what most people do today
    python tools/train_torchvision.py --eval-only output/teacher/model_final.pth --model small \\
        --domain reconstruction --codec tiny-bmshj2018-hyperprior --quality 2 \\
        --output output/decoded --val cells/val.json cells/val

    # the standard model, taught by torchvision's own, on eight GPUs
    torchrun --nproc-per-node 8 tools/train_torchvision.py --codec bmshj2018-hyperprior \\
        --quality 4 --teacher coco --device cuda --precision bfloat16 --workers 4 \\
        --train instances_train2017.json train2017 --val instances_val2017.json val2017 \\
        --output output/standard

Run again with --resume after an interruption: the result is that of an uninterrupted run.
Sizes are small for --model small (256 pixels, 1,000 iterations of 2 images) and the paper's for
--model standard (640 to 800 pixels, 270,000 iterations of 16 images), unless given.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdl_d2.cli.command_line import exit_status, needed_packages, usable_device

with needed_packages("train_torchvision"):
    import torch

    from cdl_d2.codec import CodecChoice
    from cdl_d2.codec.architectures import METRICS
    from cdl_d2.codec.latent import MEANINGS
    from cdl_d2.data import LatentStore, Variant
    from cdl_d2.files import write_json
    from cdl_d2.transfer import DISTANCES, TERMS, DetectorTransfer
    from cdl_d2.tv import (
        ARCHITECTURES,
        CocoItems,
        DetectorConfig,
        Schedule,
        Trainer,
        TransferMaskRCNN,
        build_detector,
        evaluate,
    )
    from cdl_d2.tv.checkpoint import (
        check_teacher,
        keep_classes,
        load_detector,
        load_initial_weights,
        load_pixel_detector,
        read_checkpoint,
    )
    from cdl_d2.tv.trainer import append_metrics, process_group, rank_and_world_size

SIZES = {  # short edges of training, short edge of evaluation, longest side
    "standard": ((640, 672, 704, 736, 768, 800), 800, 1333),
    "small": ((256,), 256, 384),
}
FLIPS = (False, True)
# Arguments that a resumed training must share with the interrupted one, beside the schedule.
RESULT_DEPENDS_ON = (
    *("train", "store_train", "teacher", "transfer", "weight", "distance", "masks", "precision"),
    "initial_weights",
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    data = ("ANNOTATIONS.json", "IMAGE_DIR")
    add("--train", nargs=2, metavar=data, help="needed unless --eval-only")
    add("--val", nargs=2, metavar=data, required=True)
    add("--output", type=Path, required=True, help="folder for checkpoints and results")
    add("--eval-only", metavar="CHECKPOINT", help="evaluate a detector that was trained here")
    add("--resume", action="store_true", help="go on from the output folder's checkpoint")

    group = parser.add_argument_group("detector").add_argument
    group("--domain", default="latent", choices=("latent", "reconstruction", "image"))
    group("--model", default="standard", choices=sorted(SIZES))
    group("--anchor-sizes", type=int, nargs=5, metavar="PIXELS", help="one a pyramid level")
    group("--initial-weights", help="a detector of the same kind, or `coco` for --domain image")

    group = parser.add_argument_group("codec, for latents and reconstructions").add_argument
    group("--codec", help="as CompressAI names it, or tiny-<that>")
    group("--quality", type=int)
    group("--metric", default="mse", choices=METRICS)
    group("--codec-weights", default="", help="local weights, not the zoo's or the package's")
    group("--meaning", default="decoded", choices=MEANINGS)
    group("--store-train", metavar="DIR", help="read latents there, see tools/encode_dataset.py")
    group("--store-val", metavar="DIR")

    group = parser.add_argument_group("knowledge transfer").add_argument
    group("--teacher", help="checkpoint of --domain image, torchvision's weights file, or `coco`")
    group("--transfer", default="both", choices=("both", "features", "outputs"))
    group("--lambda", dest="weight", type=float, default=1.0, help="weight of all transfer losses")
    group("--distance", default="mse", choices=DISTANCES, help="between features")
    group("--masks", default="foreground", choices=("all", "foreground"), help="proposals compared")

    group = parser.add_argument_group("schedule").add_argument
    group("--iterations", type=int)
    group("--batch-size", type=int, help="images a step, over all processes")
    group("--learning-rate", type=float, default=0.02)
    group("--warmup", type=int, help="iterations")
    group("--short-edges", type=int, nargs="+", help="sizes of training images")
    group("--short-edge-val", type=int)
    group("--max-size", type=int, help="of the longer side")
    group("--seed", type=int, default=0)
    group("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group("--precision", default="float32", choices=("float32", "float16", "bfloat16"))
    group("--workers", type=int, default=0, help="processes that load data")
    group("--checkpoint-period", type=int, default=250, help="iterations")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    usable_device(args.device)
    if args.output.is_file():
        raise ValueError(f"--output {args.output} is a file: give a folder")
    if args.eval_only:
        detector, config = load_evaluated(args)
        args.output.mkdir(parents=True, exist_ok=True)
        results = run_evaluation(args, detector.to(args.device), config)
    else:
        results = run_training(args)
    if results:
        print(json.dumps(results, indent=2))


def run_training(args: argparse.Namespace) -> dict | None:
    """Train, then evaluate in the first process."""
    if not args.train:
        raise ValueError("nothing to train on: give --train ANNOTATIONS.json IMAGE_DIR")
    schedule, sizes = schedule_of(args), sizes_of(args)
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.resume and (args.output / "checkpoint.pth").exists():
        raise ValueError(
            f"{args.output} has a checkpoint: add --resume to go on, or take another folder"
        )
    store = open_store(args.store_train, args)
    with_image = store is None or bool(args.teacher)
    dataset = CocoItems(
        *args.train, variants_of(args), training=True, store=store, with_image=with_image
    )
    validation_items(args, dataset.classes)  # an error now, not after training
    config = config_of(args, dataset.classes)
    if args.model == "standard" and args.domain != "latent" and not args.initial_weights:
        raise ValueError(
            "the standard pixel network has frozen normalization and cannot learn from scratch: "
            "give --initial-weights coco, or a file, or --model small"
        )
    with process_group(args.device) as device:
        torch.manual_seed(args.seed)
        detector = build_detector(config)
        if args.initial_weights:
            loaded = load_initial_weights(detector, args.initial_weights)
            print(f"{loaded} entries of the detector start from {args.initial_weights}")
        trainer = Trainer(
            config,
            detector,
            with_teacher(args, detector, config),
            dataset,
            schedule,
            args.output,
            seed=args.seed,
            device=device,
            precision=args.precision,
            workers=args.workers,
            checkpoint_period=args.checkpoint_period,
            settings=sizes | {name: getattr(args, name) for name in RESULT_DEPENDS_ON},
        )
        if args.resume:
            print(f"training from iteration {trainer.resume()}")
        trainer.train()
        if rank_and_world_size()[0] > 0:
            return None
        return run_evaluation(args, detector, config)


def load_evaluated(args: argparse.Namespace) -> tuple[torch.nn.Module, DetectorConfig]:
    """The detector of --eval-only, at the sizes that it was trained with unless others are given.

    One of original images may be shown decoded ones; any other comes with its codec.
    """
    detector, config = load_detector(args.eval_only)
    trained = read_checkpoint(args.eval_only).get("training", {})
    for name in ("short_edge_val", "max_size"):
        if getattr(args, name) is None:
            setattr(args, name, trained.get(name))
    decoding = config.domain == "image" and args.domain == "reconstruction"
    if args.codec and not decoding and codec_of(args) != config.codec:
        raise ValueError(f"{args.eval_only} reads {config.codec}, not --codec {args.codec}")
    if decoding:
        config = replace(config, domain="reconstruction", codec=codec_of(args))
        decoding = build_detector(config)
        decoding.load_state_dict(detector.state_dict())
        return decoding, config
    return detector, config


def run_evaluation(args: argparse.Namespace, detector, config: DetectorConfig) -> dict:
    """COCO AP and rate, also in the output folder's results.json and metrics.json."""
    dataset = validation_items(args, config.classes)
    results = evaluate(detector, dataset, args.output / "inference")
    flat = {f"{task}/{name}": v for task, each in results.items() for name, v in each.items()}
    append_metrics(args.output, flat)
    write_json(args.output / "results.json", results)
    return results


def with_teacher(args: argparse.Namespace, detector, config: DetectorConfig) -> torch.nn.Module:
    """The detector, inside a module that teaches it if there is a teacher."""
    if not args.teacher:
        return detector
    teacher, theirs = load_pixel_detector(args.teacher)
    theirs = keep_classes(teacher, theirs, config.classes)
    check_teacher(config, theirs)
    terms = {"features"} if args.transfer == "features" else TERMS
    terms = terms - {"features"} if args.transfer == "outputs" else terms
    transfer = DetectorTransfer(args.weight, dict.fromkeys(terms, 1.0), args.distance)
    return TransferMaskRCNN(detector, teacher, transfer, args.masks)


def config_of(args: argparse.Namespace, classes: tuple[str, ...]) -> DetectorConfig:
    architecture = ARCHITECTURES[args.model]
    if args.anchor_sizes:
        architecture = replace(architecture, anchor_sizes=tuple(args.anchor_sizes))
    return DetectorConfig(classes, args.domain, codec_of(args), architecture)


def codec_of(args: argparse.Namespace) -> CodecChoice | None:
    if args.domain == "image":
        return None
    if not args.codec or args.quality is None:
        raise ValueError(f"domain {args.domain} needs --codec and --quality")
    return CodecChoice(args.codec, args.quality, args.metric, args.codec_weights, args.meaning)


def schedule_of(args: argparse.Namespace) -> Schedule:
    short = Schedule(iterations=1000, batch_size=2, warmup=100)
    given = {name: getattr(args, name) for name in ("iterations", "batch_size", "warmup")}
    given = {name: value for name, value in given.items() if value is not None}
    schedule = short if args.model == "small" else Schedule()
    return replace(schedule, learning_rate=args.learning_rate, **given)


def sizes_of(args: argparse.Namespace) -> dict[str, Any]:
    """Short edges of training, short edge of evaluation, and the longest side, in pixels."""
    edges, edge, longest = SIZES[args.model]
    sizes = {
        "short_edges": list(args.short_edges or edges),
        "short_edge_val": edge if args.short_edge_val is None else args.short_edge_val,
        "max_size": longest if args.max_size is None else args.max_size,
    }
    if min(*sizes["short_edges"], sizes["short_edge_val"], sizes["max_size"]) < 1:
        raise ValueError(f"sizes {sizes}: every one needs at least 1 pixel")
    return sizes


def variants_of(args: argparse.Namespace) -> list[Variant]:
    sizes = sizes_of(args)
    return [Variant(e, sizes["max_size"], flip) for e in sizes["short_edges"] for flip in FLIPS]


def validation_items(args: argparse.Namespace, classes: tuple[str, ...]) -> CocoItems:
    """The images to evaluate on, whose classes must be the detector's."""
    sizes, store = sizes_of(args), open_store(args.store_val, args)
    variant = Variant(sizes["short_edge_val"], sizes["max_size"])
    with_image = store is None
    dataset = CocoItems(*args.val, [variant], training=False, store=store, with_image=with_image)
    if dataset.classes != classes:
        raise ValueError(
            f"{args.val[0]} has the classes {', '.join(dataset.classes)}; the detector knows "
            f"{', '.join(classes)}"
        )
    return dataset


def open_store(folder: str | None, args: argparse.Namespace) -> LatentStore | None:
    if not folder:
        return None
    if args.domain != "latent":
        raise ValueError(f"a latent store has nothing for domain {args.domain}")
    return LatentStore(folder, codec_of(args).load())


if __name__ == "__main__":
    sys.exit(exit_status("train_torchvision", main))
