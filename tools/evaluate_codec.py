#!/usr/bin/env python
"""Bits per pixel, PSNR and MS-SSIM of a codec on a folder of images.

`bpp (files)` counts the bits of the bitstreams with their headers, `bpp (estimated)` what the
entropy model predicts, both over the pixels of the images; `..., coded` over those with padding.

Example, the built-in codecs on Kodak:
    python tools/evaluate_codec.py --images kodak --name tiny-bmshj2018-hyperprior --quality 1 2
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from cdl_d2.codec import Codec
from cdl_d2.codec.image_files import find_images
from cdl_d2.codec.rate_distortion import Averages, average, rate_point
from cdl_d2.codec.rates import Rate, channel_group_rates, equal_groups


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
    add("--channel-groups", type=int, help="print the bits of this many groups of channels as well")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    groups = []
    columns = ["codec", "quality", "image", "bpp (files)", "bpp (estimated)"]
    columns += ["files, coded", "estimated, coded", "PSNR (dB)", "MS-SSIM"]
    print("|", " | ".join(columns), "|")
    print("|", " | ".join("---" for _ in columns), "|")
    try:
        paths = find_images(args.images)
        for quality in args.quality:
            codec = Codec.load(args.name, quality, args.metric, args.weights).on(args.device)
            points = []
            for path in tqdm(paths, leave=False, unit="image"):
                stream, point = rate_point(codec, path)
                points.append(point)
                if args.per_image:
                    print_row(args.name, quality, point.name, point.rate, point)
                if args.channel_groups:
                    split = equal_groups(codec.latent_channels, args.channel_groups)
                    groups.append((quality, path.name, channel_group_rates(codec, stream, split)))
            mean = average(points)
            print_row(args.name, quality, "average", mean, mean)
    except (ValueError, OSError) as error:
        print(f"evaluate_codec: {error}", file=sys.stderr)
        return 1
    print_groups(groups)
    return 0


def print_row(name: str, quality: int, image: str, rate: Rate | Averages, quality_of) -> None:
    similarity = "" if quality_of.ms_ssim is None else f"{quality_of.ms_ssim:.4f}"
    rates = (
        rate.file_bpp,
        rate.estimated_bpp,
        rate.file_bits_per_coded_pixel,
        rate.estimated_bits_per_coded_pixel,
    )
    cells = [name, str(quality), image, *(f"{r:.3f}" for r in rates)]
    print("|", " | ".join([*cells, f"{quality_of.psnr:.2f}", similarity]), "|", flush=True)


def print_groups(groups) -> None:
    if groups:
        print("\n| quality | image | channels | bits (string) | bits (estimated) |")
        print("| --- | --- | --- | --- | --- |")
    for quality, name, rates in groups:
        for rate in rates:
            span = f"{rate.channels[0]} to {rate.channels[-1]}"
            print(
                f"| {quality} | {name} | {span} | {rate.string_bits} | {rate.estimated_bits:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
