#!/usr/bin/env python
"""Draw sample data: textured shapes of five classes, for detection, segmentation or classification.

Examples:
    python tools/make_sample_data.py --task detection --count 300 --output sample/train
    python tools/make_sample_data.py --task detection --count 60 --seed 1 --output sample/val

detection writes COCO format, annotations.json and images/; segmentation writes images/ and labels/;
classification writes a folder of images for each class. Equal arguments give equal files.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from cdl_d2.cli.command_line import exit_status
from cdl_d2.data.datasets.drawn import WRITERS


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", required=True, choices=WRITERS)
    add("--output", type=Path, required=True, help="folder of the data set, which must be empty")
    add("--count", type=int, required=True, help="images")
    add("--size", type=int, nargs=2, default=(192, 192), metavar=("HEIGHT", "WIDTH"))
    add("--seed", type=int, default=0, help="another seed gives other images")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.output.exists() and (args.output.is_file() or any(args.output.iterdir())):
        raise ValueError(f"{args.output} is not an empty folder: choose another")
    written = WRITERS[args.task](args.output, args.count, tuple(args.size), args.seed)
    for _ in tqdm(written, total=args.count, unit="image"):
        pass
    print(f"{args.count} images in {args.output}")


if __name__ == "__main__":
    sys.exit(exit_status("make_sample_data", main))
