#!/usr/bin/env python
"""Encode a data set into a latent store, from which models train and evaluate without encoding.

Examples:
    # the images of a COCO-format data set, at the size of evaluation
    python tools/encode_dataset.py --images val2017 --annotations instances_val2017.json \\
        --name bmshj2018-hyperprior --quality 4 --short-edges 800 --output latents/val

    # the six sizes of training, flipped and not, as bitstreams, on one of eight machines
    python tools/encode_dataset.py --images train2017 --name bmshj2018-hyperprior --quality 4 \\
        --short-edges 640 672 704 736 768 800 --flip --form bitstreams --output latents/train \\
        --shard 0/8

Run it again after an interruption: finished shards are kept. Under torchrun or as a SLURM array
each process takes its own shards. The exit status is 1 if an image failed.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.codec.architectures import METRICS
from cdl_d2.codec.latent import MEANINGS
from cdl_d2.data import Plan, Variant
from cdl_d2.data.datasets.sources import images_of_coco, images_of_folder, shard_of_environment
from cdl_d2.data.store.encoding import close_store, encode_shards, missing_shards
from cdl_d2.data.store.plan import FORMS
from cdl_d2.data.store.ray_encoding import encode_shards_with_ray


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="folder of images")
    source.add_argument("--dataset", help="a data set that Detectron2 knows by this name")
    add("--annotations", type=Path, help="COCO-format JSON: only its images, not the whole folder")
    add("--output", type=Path, required=True, help="folder of the store")
    add("--name", required=True, help="codec, as CompressAI names it, or tiny-<that>")
    add("--quality", type=int, required=True)
    add("--metric", default="mse", choices=METRICS)
    add("--weights", default="", help="local weights, instead of the zoo's or the package's")
    add("--meaning", default="decoded", choices=MEANINGS)
    add("--form", default="arrays", choices=FORMS, help="arrays: fast; bitstreams: smallest")
    add("--short-edges", type=int, nargs="+", default=[0], help="sizes; 0 (default) as it is")
    add("--max-size", type=int, default=1333, help="of the longer side, where resized")
    add("--flip", action="store_true", help="store every size flipped as well")
    add("--shard-size", type=int, default=64, help="images a file")
    add("--shard", help="i/n: encode part i (from 0) of n; default from torchrun or SLURM, or all")
    add("--workers", type=int, help="processes (default one a core); 0 for none")
    add("--batch-size", type=int, default=8, help="images at a time, on a GPU")
    add("--ray", action="store_true", help="on the CPUs of the Ray cluster that this machine is in")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    try:
        part = parse_part(args.shard)
        folder, images = find_source(args)
        codec = Codec.load(args.name, args.quality, args.metric, args.weights, args.meaning)
        plan = Plan(codec.identity, args.form, variants_of(args), tuple(images), args.shard_size)
        plan.save(args.output)
        failed = encode(args, codec, plan, folder, part)
        everywhere = close_store(args.output, plan)
    except (ValueError, OSError, ImportError) as error:
        print(f"encode_dataset: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "encode_dataset: interrupted; finished shards are kept, run it again", file=sys.stderr
        )
        return 130
    if everywhere is None:
        print("this part is done; the store is complete when the others are")
        return 1 if failed else 0
    print(f"{args.output} is complete: {len(images)} images, {len(everywhere)} of them failed")
    return 1 if everywhere else 0


def encode(args: argparse.Namespace, codec: Codec, plan: Plan, folder: Path, part) -> int:
    """Encode what is missing, with a progress bar; the number of images that failed."""
    workers = len(os.sched_getaffinity(0)) if args.workers is None else args.workers
    on_gpu = args.device != "cpu" and not args.ray
    if on_gpu:
        codec.on(args.device)
    shards = missing_shards(args.output, plan, part)
    total = sum(len(plan.images_of(shard)) for shard in shards)
    arguments = codec, plan, folder, args.output, shards
    if args.ray and shards:
        steps = encode_shards_with_ray(*arguments, max(workers, 1))
    else:
        steps = (
            (1, [f"{done.image}: {done.error}"] if done.error else [])
            for done in encode_shards(*arguments, workers, args.batch_size if on_gpu else 0)
        )
    failed = 0
    with tqdm(total=total, unit="image", disable=not total) as progress:
        for count, errors in steps:
            progress.update(count)
            failed += len(errors)
            for error in errors:
                tqdm.write(f"encode_dataset: {error}", file=sys.stderr)
    return failed


def variants_of(args: argparse.Namespace) -> tuple[Variant, ...]:
    flips = (False, True) if args.flip else (False,)
    return tuple(Variant(edge, args.max_size, flip) for edge in args.short_edges for flip in flips)


def parse_part(text: str | None) -> tuple[int, int]:
    try:
        index, count = (int(n) for n in text.split("/")) if text else shard_of_environment()
    except ValueError as error:
        source = f"--shard {text!r}" if text else "RANK or SLURM_ARRAY_TASK_ID of the environment"
        raise ValueError(f"{source} is not of the form i/n") from error
    if not 0 <= index < count:
        raise ValueError(f"part {index}/{count}: i counts from 0 to n - 1")
    return index, count


def find_source(args: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of images, and their paths in it."""
    if args.dataset and args.annotations:
        raise ValueError("--annotations belongs to --images: a data set has its own")
    if args.dataset:
        from cdl_d2.d2.data.coco_datasets import images_of_dataset

        return images_of_dataset(args.dataset)
    if args.annotations:
        if not args.images.is_dir():
            raise FileNotFoundError(f"there is no image folder {args.images}")
        return args.images, images_of_coco(args.annotations)
    return args.images, images_of_folder(args.images)


if __name__ == "__main__":
    sys.exit(main())
