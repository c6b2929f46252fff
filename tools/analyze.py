#!/usr/bin/env python
"""Count the multiply-adds of a model's parts, beside the paper's figures.

Example:
    python tools/analyze.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml --size 800 1280
"""

import json
import sys

from cdl_d2.cli.command_line import exit_status, needed_packages

with needed_packages("analyze"):
    from cdl_d2.bench.counts import count_multiply_adds, paper_giga
    from cdl_d2.cli.d2_arguments import add_overrides, load_config, new_parser


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_overrides(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    cfg, size = load_config(args), tuple(args.size)
    counts = count_multiply_adds(cfg, size)
    if args.json:
        print(json.dumps(counts))
        return
    print(f"{args.config_file} at {size[0]} x {size[1]}, giga multiply-adds")
    for part, count in counts.items():
        paper = paper_giga(cfg, part, size)
        print(f"  {part:17s} {count / 1e9:8.2f}" + (f"   paper {paper:8.2f}" if paper else ""))


if __name__ == "__main__":
    sys.exit(exit_status("analyze", main))
