#!/usr/bin/env python
"""Train an image codec (any architecture of cdl_d2.codec) on a folder of photographs.

Example, the built-in codec of quality 2:
    python tools/train_codec.py --images photos --output output/tiny-2 \
        --name tiny-bmshj2018-hyperprior --quality 2 --lmbda 0.0130 --iterations 9000
"""

import argparse
import sys
from pathlib import Path

import torch

from cdl_d2.codec.learning.training import CodecTraining, train_codec


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of photographs, searched recursively")
    add("--output", type=Path, required=True, help="folder for checkpoint, metrics and weights")
    add("--name", required=True, help="architecture, as CompressAI names it, or tiny-<that>")
    add("--quality", type=int, required=True, help="quality that the weights stand for")
    add("--metric", default="mse", choices=["mse", "ms-ssim"])
    add("--lmbda", type=float, required=True, help="weight of distortion against bits per pixel")
    add("--iterations", type=int, required=True)
    add("--batch-size", type=int, default=8)
    add("--patch-size", type=int, default=192, help="side of a crop, a multiple of 64")
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--initial-weights", type=Path, help="start from these weights, say of another quality")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="loader processes")
    add("--threads", type=int, help="CPU threads of the training itself")
    add("--checkpoint-every", type=int, default=500, help="iterations between checkpoints")
    add("--resume", action="store_true", help="go on from the checkpoint in --output")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        fields = CodecTraining.__dataclass_fields__
        plan = CodecTraining(**{k: v for k, v in vars(args).items() if k in fields})
        path = train_codec(
            plan,
            args.images,
            args.output,
            initial_weights=args.initial_weights,
            device=args.device,
            resume=args.resume,
            checkpoint_every=args.checkpoint_every,
            workers=args.workers,
        )
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"train_codec: {error}", file=sys.stderr)
        return 1
    print(f"weights: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
