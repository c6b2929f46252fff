#!/usr/bin/env python
"""Compare trainings: a table of what they report, and a picture of one value against another.

A point is a name and the output folders of one or several trainings (seeds), which are averaged.
Points named CURVE:NAME are joined by a line.

Example:
    python tools/compare_runs.py --keys rate/bpp classification/top1 rate/psnr \\
        --point frozen output/frozen-1 output/frozen-2 \\
        --point "joint:task x 1" output/joint-1 --point "joint:task x 10" output/joint-10 \\
        --plot rate/bpp classification/top1 --output tradeoff.png
"""

import argparse
import sys
from pathlib import Path

from cdl_d2.command_line import exit_status
from cdl_d2.files import write_atomically
from cdl_d2.results import read_point, tradeoff_figure


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--keys", nargs="+", required=True, help="columns of the table, such as bbox/AP")
    add("--point", nargs="+", action="append", required=True, metavar=("NAME", "FOLDER"))
    add("--plot", nargs=2, metavar=("X", "Y"), help="two keys")
    add("--output", type=Path, help="PNG file of the plot")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if bool(args.plot) != bool(args.output):
        raise ValueError("--plot and --output belong together")
    keys = list(dict.fromkeys([*args.keys, *(args.plot or [])]))
    points = [read_point(name, folders, keys) for name, *folders in args.point]
    print("| run | seeds | " + " | ".join(keys) + " |")
    print("| --- | --- |" + " --- |" * len(keys))
    for point in points:
        name = f"{point.curve}: {point.name}" if point.curve else point.name
        values = " | ".join(f"{point.values[key]:.3f}" for key in keys)
        print(f"| {name} | {point.seeds} | {values} |")
    if args.plot:
        with write_atomically(args.output) as temporary:
            tradeoff_figure(points, *args.plot).savefig(temporary, format="png", dpi=80)


if __name__ == "__main__":
    sys.exit(exit_status("compare_runs", main))
