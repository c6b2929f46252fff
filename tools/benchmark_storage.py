#!/usr/bin/env python
"""Time all ways to get at latents, in one run: stores, bitstreams, encoding on the fly.

Examples:
    python tools/benchmark_storage.py --images val2017 --name bmshj2018-hyperprior --quality 4 \\
        --short-edge 800
    python tools/benchmark_storage.py --compare-with-compressai kodim01.png --name mbt2018 \\
        --quality 4
    python tools/benchmark_storage.py --memory photo.jpg --name tiny-bmshj2018-hyperprior \\
        --quality 2
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from cdl_d2.bench.storage import (
    bulk_utilisation,
    compare_with_compressai,
    memory_over,
    time_access,
)
from cdl_d2.codec import Codec
from cdl_d2.data import Variant
from cdl_d2.data.datasets.sources import images_of_folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="folder of images")
    source.add_argument(
        "--compare-with-compressai", type=Path, metavar="IMAGE", help="time coding of one image"
    )
    source.add_argument(
        "--memory", type=Path, metavar="IMAGE", help="memory over 10,000 copies of one image"
    )
    add("--name", required=True, help="codec, as CompressAI names it, or tiny-<that>")
    add("--quality", type=int, required=True)
    add("--weights", default="", help='local weights; "untrained" for random ones')
    add("--short-edge", type=int, default=800, help="size of the stored variant; 0 as it is")
    add("--max-size", type=int, default=1333)
    add("--count", type=int, default=20, help="images to take")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=1, help="of PyTorch, for all but the bulk encoder")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the bulk encoder")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    try:
        codec = Codec.load(args.name, args.quality, weights=args.weights)
        if args.compare_with_compressai:
            rows, equal = compare_with_compressai(codec, args.compare_with_compressai)
            print_rows(rows)
            print(f"\n{equal:.4%} of the symbols are equal")
            return 0
        if args.memory:
            print("| what | items | MB |\n| --- | --- | --- |")
            with tempfile.TemporaryDirectory() as folder:
                for what, done, size in memory_over(codec, args.memory, 10_000, Path(folder)):
                    print(f"| {what} | {done} | {size:.0f} |", flush=True)
            return 0
        names = images_of_folder(args.images)[: args.count]
        variant = Variant(args.short_edge, args.max_size)
        with tempfile.TemporaryDirectory() as folder:
            timings, sizes = time_access(
                codec, args.images, names, variant, Path(folder), args.repeats
            )
            print_rows(timings)
            print("\n| form | bytes an image | of the bitstream |\n| --- | --- | --- |")
            for form, size in sizes.items():
                print(f"| {form} | {size:.0f} | {size / sizes['bitstream']:.2f} |")
            share = bulk_utilisation(
                codec, args.images, names, variant, Path(folder) / "bulk", args.workers
            )
            print(f"\nbulk encoder, {args.workers} processes: {share:.0%} of the bare encoder")
    except (ValueError, OSError) as error:
        print(f"benchmark_storage: {error}", file=sys.stderr)
        return 1
    return 0


def print_rows(rows) -> None:
    print("| what | ms an image |\n| --- | --- |")
    for row in rows:
        print(f"| {row.name} | {1000 * row.seconds:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
