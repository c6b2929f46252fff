#!/usr/bin/env python
"""Code images for a trained model: the channels that it selects first, the others beside them.

NAME.cdlz holds what the model looks at. NAME.rest.cdlz holds the rest, with which `python -m
cdl_d2.codec decompress` makes the image; without it, the model's result can still be had. Images
are resized, and for a classifier cropped, as in its evaluation.

Example:
    python tools/compress_for_model.py --run output/gate --images photos --output coded
"""

import argparse
import sys
from pathlib import Path

from cdl_d2.cli.command_line import exit_status, needed_packages, usable_device

with needed_packages("compress_for_model"):
    import torch
    from tqdm import tqdm

    from cdl_d2.codec.bitstream.stream import SUFFIX, rest_of
    from cdl_d2.codec.image_files import find_images, read_image
    from cdl_d2.d2.engine.bitstreams import codec_of, compress_for
    from cdl_d2.d2.engine.trained import evaluation_mapper, load_trained


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--run", type=Path, required=True, help="output folder of the model's training")
    add("--images", type=Path, required=True, help="folder of images")
    add("--output", type=Path, required=True, help="new folder for the bitstreams")
    add("--no-rest", action="store_true", help="only what the model looks at")
    add("--as-is", action="store_true", help="do not resize or crop images")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def targets_of(images: list[Path], folder: Path, output: Path) -> dict[Path, Path]:
    """Where each image's first layer goes.

    Raises:
        ValueError: if two files would have the same name.
    """
    targets = {path: (output / path.relative_to(folder)).with_suffix(SUFFIX) for path in images}
    written: dict[Path, Path] = {}
    for path, target in targets.items():
        for name in (target, rest_of(target)):
            if name in written:
                raise ValueError(f"{written[name]} and {path} would both be {name}: rename one")
            written[name] = path
    return targets


def main() -> int:
    args = parse_arguments()
    targets = targets_of(find_images(args.images), args.images, args.output)
    if args.output.exists():
        raise FileExistsError(f"--output {args.output} exists already: give a new folder")
    model = load_trained(args.run, usable_device(args.device))
    codec_of(model)  # an error now, not once for every image
    mapper, swap = evaluation_mapper(args.run), model.image_format == "BGR"
    args.output.mkdir(parents=True)
    bits, pixels, failures = [0, 0], 0, 0
    for path, target in tqdm(targets.items(), unit="image"):
        try:
            if args.as_is:
                image = read_image(path).flip(0) if swap else read_image(path)
            else:
                image = mapper({"file_name": str(path)})["image"]
            layers = compress_for(model, image, with_rest=not args.no_rest)
        except (ValueError, OSError) as error:
            text = str(error) if str(path) in str(error) else f"{path}: {error}"
            tqdm.write(f"compress_for_model: {text}", file=sys.stderr)
            failures += 1
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if layers.rest:
            layers.rest.save(rest_of(target))
            bits[1] += 8 * len(layers.rest.to_bytes())
        layers.selected.save(target)
        bits[0] += 8 * len(layers.selected.to_bytes())
        pixels += image.shape[1] * image.shape[2]
    if pixels:
        print(f"{bits[0] / pixels:.3f} bits per pixel for the model, {bits[1] / pixels:.3f} beside")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(exit_status("compress_for_model", main))
