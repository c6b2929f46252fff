#!/usr/bin/env python
"""Count the multiply-adds of a detector's parts, beside the paper's figures.

Example:
    python tools/analyze.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml --size 800 1280
"""

import argparse
import json
import sys

from detectron2.config import get_cfg

from cdl_d2.d2 import add_cdl_config
from cdl_d2.d2.analysis import count_multiply_adds, paper_giga


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(800, 1280), metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("opts", nargs="*", help="config overrides, KEY VALUE ...")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    cfg = get_cfg()
    add_cdl_config(cfg)
    try:
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
        counts = count_multiply_adds(cfg, tuple(args.size))
    except (ValueError, OSError, KeyError) as error:
        print(f"analyze: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(counts))
        return 0
    print(f"{args.config_file} at {args.size[0]} x {args.size[1]}, giga multiply-adds")
    for part, count in counts.items():
        paper = paper_giga(cfg, part, tuple(args.size))
        print(f"  {part:17s} {count / 1e9:8.2f}" + (f"   paper {paper:8.2f}" if paper else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
