#!/usr/bin/env python
"""Run a checkpoint on images and write pictures of what it finds.

For each image NAME: NAME_detections.png and, for a model with a codec, NAME_latent.png with the
bits per cell and the strongest latent channels.

Example:
    python tools/visualize.py --config-file output/my_model/config.yaml --input photos/*.jpg \\
        --output output/pictures --opts MODEL.WEIGHTS output/my_model/model_final.pth
"""

import argparse
import sys
from pathlib import Path

from cdl_d2.cli.command_line import exit_status, needed_packages

with needed_packages("visualize"):
    from detectron2.data import Metadata
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
    from detectron2.data.detection_utils import read_image
    from detectron2.engine import DefaultPredictor
    from PIL import Image, UnidentifiedImageError
    from tqdm import tqdm

    from cdl_d2.cli.d2_arguments import load_config, new_parser
    from cdl_d2.codec.pictures import latent_figure
    from cdl_d2.d2 import build_codec
    from cdl_d2.d2.checkpoint import load_all_weights
    from cdl_d2.d2.engine.pictures import draw_detections
    from cdl_d2.files import write_atomically


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, metavar="IMAGE")
    add("--output", type=Path, required=True, help="folder for the pictures")
    add("--threshold", type=float, default=0.5, help="lowest score that is drawn")
    add("--classes", nargs="+", help="names of the classes; default: COCO's, or numbers")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides, KEY VALUE ...")
    return parser.parse_args()


def build_predictor(cfg) -> DefaultPredictor:
    """Detectron2's predictor, with weights read safely."""
    empty = cfg.clone()
    empty.merge_from_list(["MODEL.WEIGHTS", "", "DATASETS.TEST", ()])
    predictor = DefaultPredictor(empty)
    load_all_weights(predictor.model, cfg.MODEL.WEIGHTS)
    return predictor


def class_names(cfg, given: list[str] | None) -> list[str]:
    count = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = given or [c["name"] for c in COCO_CATEGORIES if c["isthing"]]
    if given and len(given) != count:
        raise ValueError(f"{len(given)} class names for a model of {count} classes")
    return names if len(names) == count else [str(i) for i in range(count)]


def write_pictures(args: argparse.Namespace, cfg) -> int:
    """Pictures of all images that can be read; returns how many could not."""
    stems = [path.stem for path in args.input]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise ValueError(f"pictures are named by file name, and {min(twice)} comes twice")
    predictor, failures = build_predictor(cfg), 0
    metadata = Metadata(thing_classes=class_names(cfg, args.classes))
    args.output.mkdir(parents=True, exist_ok=True)
    for path in tqdm(args.input, unit="image"):
        try:
            image = read_image(path, format="BGR")
        except (OSError, UnidentifiedImageError) as error:
            print(f"visualize: {path} cannot be read: {error}", file=sys.stderr)
            failures += 1
            continue
        found = predictor(image)["instances"]
        rgb = image[:, :, ::-1]
        drawn = Image.fromarray(draw_detections(rgb, found, metadata, args.threshold))
        with write_atomically(args.output / f"{path.stem}_detections.png") as temporary:
            drawn.save(temporary, format="PNG")
        if cfg.INPUT.DOMAIN != "image":
            with write_atomically(args.output / f"{path.stem}_latent.png") as temporary:
                resized = predictor.aug.get_transform(rgb).apply_image(rgb)  # as the model sees it
                latent_figure(build_codec(cfg), resized).savefig(temporary, format="png", dpi=80)
    return failures


def main() -> int:
    args = parse_arguments()
    failures = write_pictures(args, load_config(args))
    print(f"{len(args.input) - failures} images in {args.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(exit_status("visualize", main))
