#!/usr/bin/env python
"""Time trained models from an image to its file, and from the file to the result.

Each model codes what it looks at: all channels, the selected ones, or for a network on decoded
images the whole image. Models are measured in turn, image by image.

Example:
    python tools/benchmark_files.py --images city/val --count 10 \\
        --run decoded output/decoded --run static-32 output/static-32
"""

import argparse
import sys
from pathlib import Path

from cdl_d2.cli.command_line import exit_status, needed_packages, usable_device

with needed_packages("benchmark_files"):
    import torch

    from cdl_d2.bench.files import time_files
    from cdl_d2.codec.image_files import find_images


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images")
    add(
        "--run",
        nargs=2,
        action="append",
        required=True,
        metavar=("NAME", "FOLDER"),
        help="output folder of a training; repeatable",
    )
    add("--count", type=int, default=10, help="images to take")
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=1, help="of PyTorch")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if min(args.count, args.repeats, args.threads) < 1:
        raise ValueError("--count, --repeats and --threads: at least 1")
    names = [name for name, _ in args.run]
    if len(set(names)) < len(names):
        raise ValueError(f"two runs have one name: {', '.join(names)}")
    torch.set_num_threads(args.threads)
    images = find_images(args.images)[: args.count]
    timings = time_files(dict(args.run), images, args.repeats, usable_device(args.device))
    rows = {name: timing.row() for name, timing in timings.items()}
    columns = list(next(iter(rows.values())))
    print("| run | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in columns) + " |")


if __name__ == "__main__":
    sys.exit(exit_status("benchmark_files", main))
