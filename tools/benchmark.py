#!/usr/bin/env python
"""Time encoding, decoding, detection and training steps, with peak memory, in one run.

Example:
    python tools/benchmark.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml \\
        --size 800 1280 --repeats 5 MODEL.TRANSFER.MASKS foreground
"""

import sys

from cdl_d2.cli.command_line import exit_status, needed_packages

with needed_packages("benchmark"):
    import torch

    from cdl_d2.bench.model import run_benchmark
    from cdl_d2.cli.d2_arguments import add_overrides, load_config, new_parser


def parse_arguments():
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH"))
    add("--repeats", type=int, default=5, help="measured repetitions; the median is printed")
    add_overrides(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    cfg = load_config(args)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if args.repeats < 1 or min(args.size) < 256:
        raise ValueError("at least 1 repetition and 256 pixels a side")
    measured = run_benchmark(cfg, tuple(args.size), args.repeats)
    where = f"{cfg.MODEL.DEVICE}, {torch.get_num_threads()} threads"
    print(f"{args.config_file} at {args.size[0]} x {args.size[1]}, batch 1, {where}")
    print("| part | median ms | fastest ms | peak MB |\n| --- | --- | --- | --- |")
    for name, part in measured.items():
        peak = "" if part.peak_mb is None else f"{part.peak_mb:.0f}"
        print(f"| {name} | {part.median * 1e3:.0f} | {min(part.seconds) * 1e3:.0f} | {peak} |")
    median = {name: part.median for name, part in measured.items()}
    inference = median["latent_detector"] / (median["decode"] + median["pixel_detector"])
    training = median["train_step_transfer"] / (median["train_step"] + median["pixel_detector"])
    print(f"latent_detector / (decode + pixel_detector): {inference:.2f}")
    print(f"train_step_transfer / (train_step + pixel_detector): {training:.2f}")


if __name__ == "__main__":
    sys.exit(exit_status("benchmark", main))
