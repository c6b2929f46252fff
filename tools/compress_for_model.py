#!/usr/bin/env python
"""Code images for a trained model: the channels that it selects first, the others beside them.

NAME.cdlz holds what the model looks at. NAME.rest.cdlz holds the rest, with which `python -m
cdl_d2.codec decompress` makes the image; without it, the model's result can still be had. Images
are resized as in the model's evaluation.

Example:
    python tools/compress_for_model.py --run output/gate --images photos --output coded
"""

import argparse
import sys
from pathlib import Path

from cdl_d2.command_line import exit_status, needed_packages

with needed_packages("compress_for_model"):
    from tqdm import tqdm

    from cdl_d2.codec.bitstream import SUFFIX, rest_of
    from cdl_d2.codec.image_files import find_images, read_image
    from cdl_d2.d2.bitstreams import compress_for
    from cdl_d2.d2.config import read_config
    from cdl_d2.d2.trained import load_trained
    from cdl_d2.data import Variant


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="output folder of the model's training")
    add("--images", type=Path, required=True, help="folder of images")
    add("--output", type=Path, required=True, help="new folder for the bitstreams")
    add("--no-rest", action="store_true", help="only what the model looks at")
    add("--as-is", action="store_true", help="do not resize images")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    images, sizes = find_images(args.images), read_config(args.run / "config.yaml").INPUT
    variant = Variant() if args.as_is else Variant(sizes.MIN_SIZE_TEST, sizes.MAX_SIZE_TEST)
    model = load_trained(args.run)
    args.output.mkdir(parents=True)
    bits, pixels, failures = [0, 0], 0, 0
    for path in tqdm(images, unit="image"):
        try:
            rgb = variant.apply(read_image(path))
            layers = compress_for(
                model, rgb.flip(0) if model.image_format == "BGR" else rgb, not args.no_rest
            )
        except ValueError as error:
            tqdm.write(f"compress_for_model: {path}: {error}", file=sys.stderr)
            failures += 1
            continue
        target = (args.output / path.relative_to(args.images)).with_suffix(SUFFIX)
        target.parent.mkdir(parents=True, exist_ok=True)
        if layers.rest:
            layers.rest.save(rest_of(target))
            bits[1] += 8 * len(layers.rest.to_bytes())
        layers.selected.save(target)
        bits[0] += 8 * len(layers.selected.to_bytes())
        pixels += rgb.shape[1] * rgb.shape[2]
    if pixels:
        print(f"{bits[0] / pixels:.3f} bits per pixel for the model, {bits[1] / pixels:.3f} beside")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(exit_status("compress_for_model", main))
