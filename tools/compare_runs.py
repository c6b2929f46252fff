#!/usr/bin/env python
"""Compare trainings: a table of what they report, and a picture of one value against another.

A point is a name and the output folders of one or several trainings (seeds), which are averaged.
Points named CURVE:NAME are joined by a line. Between two curves of the plot, X a rate and Y an
accuracy (bbox/AP, sem_seg/mIoU, classification/top1), a Bjontegaard saving can be computed.

Examples:
    python tools/compare_runs.py --keys rate/bpp classification/top1 rate/psnr \\
        --point frozen output/frozen-1 output/frozen-2 \\
        --point "joint:task x 1" output/joint-1 --point "joint:task x 10" output/joint-10 \\
        --plot rate/bpp classification/top1 --output tradeoff.png
    python tools/compare_runs.py --keys rate/kB --baseline "original images" output/pixel \\
        --point "decoded:quality 1" output/decoded-1 --point "decoded:quality 2" output/decoded-2 \\
        --point "static:16" output/static-16 --point "static:32" output/static-32 \\
        --plot rate/bpp sem_seg/mIoU --output rate.png --saving decoded static
"""

import argparse
import sys
from pathlib import Path

from cdl_d2.bench.curves import rate_saving, read_point, tradeoff_figure
from cdl_d2.cli.command_line import exit_status
from cdl_d2.files import write_atomically


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--keys", nargs="+", required=True, help="columns of the table, such as bbox/AP")
    add("--point", nargs="+", action="append", required=True, metavar=("NAME", "FOLDER"))
    add("--plot", nargs=2, metavar=("X", "Y"), help="two keys")
    add("--output", type=Path, help="PNG file of the plot")
    add(
        "--baseline",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "FOLDER"),
        help="trainings without a rate: a line across the plot at their Y",
    )
    add(
        "--saving",
        nargs=2,
        action="append",
        default=[],
        metavar=("REFERENCE", "CURVE"),
        help="print how much rate a curve of the plot saves at equal accuracy",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if bool(args.plot) != bool(args.output):
        raise ValueError("--plot and --output belong together")
    if (args.baseline or args.saving) and not args.plot:
        raise ValueError("--baseline and --saving need --plot, whose keys they use")
    if args.output and not args.output.parent.is_dir():
        raise FileNotFoundError(f"--output {args.output}: there is no folder for it")
    keys = list(dict.fromkeys([*args.keys, *(args.plot or [])]))
    points = [read_point(name, folders, args.plot[1:]) for name, *folders in args.baseline]
    points += [read_point(name, folders, keys) for name, *folders in args.point]
    print("| run | seeds | " + " | ".join(keys) + " |")
    print("| --- | --- |" + " --- |" * len(keys))
    for point in points:
        name = f"{point.curve}: {point.name}" if point.curve else point.name
        known = (point.values.get(key) for key in keys)
        values = " | ".join("" if value is None else f"{value:.3f}" for value in known)
        print(f"| {name} | {point.seeds} | {values} |")
    for reference, curve in args.saving:
        saved = rate_saving(points, reference, curve, *args.plot)
        print(f"{curve} saves {saved:.1f} % of the {args.plot[0]} of {reference}")
    if args.plot:
        with write_atomically(args.output) as temporary:
            tradeoff_figure(points, *args.plot).savefig(temporary, format="png", dpi=80)


if __name__ == "__main__":
    sys.exit(exit_status("compare_runs", main))
