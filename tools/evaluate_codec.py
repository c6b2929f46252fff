#!/usr/bin/env python
"""Bits per pixel, PSNR and MS-SSIM of a codec on a folder of images.

Example, the built-in codecs on Kodak:
    python tools/evaluate_codec.py --images kodak --name tiny-bmshj2018-hyperprior --quality 1 2
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.codec.rate_distortion import average, rate_points


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images, searched recursively")
    add("--name", required=True, help="codec, as CompressAI names it, or tiny-<that>")
    add("--quality", type=int, nargs="+", required=True)
    add("--metric", default="mse", choices=["mse", "ms-ssim"])
    add("--weights", default="", help="local weights, instead of the zoo's or the package's")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--per-image", action="store_true", help="print a line for each image as well")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    print("| codec | quality | image | bpp | PSNR (dB) | MS-SSIM |")
    print("| --- | --- | --- | --- | --- | --- |")
    try:
        for quality in args.quality:
            codec = Codec.load(args.name, quality, args.metric, args.weights)
            points = list(tqdm(rate_points(codec, args.images, args.device), leave=False))
            for point in [*(points if args.per_image else []), average(points)]:
                similarity = "" if point.ms_ssim is None else f"{point.ms_ssim:.4f}"
                print(
                    f"| {args.name} | {quality} | {point.name} | {point.bpp:.3f} "
                    f"| {point.psnr:.2f} | {similarity} |"
                )
    except (ValueError, OSError) as error:
        print(f"evaluate_codec: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
