#!/usr/bin/env python
"""Per-channel mean and deviation of the latents of a config's training images.

Give the file to a training as MODEL.LATENT_RESNET.STATISTICS; the checkpoint keeps them.

Example:
    python tools/latent_statistics.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml \\
        --images 500 --output output/statistics.safetensors
"""

import argparse
import sys
from itertools import islice
from pathlib import Path

from detectron2.config import get_cfg
from tqdm import tqdm

from cdl_d2.d2 import Trainer, add_cdl_config, build_codec, register_dataset
from cdl_d2.d2.encoding import encode_item
from cdl_d2.nn.statistics import latent_statistics, save_statistics


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True)
    add("--output", type=Path, required=True, help="file to write, .safetensors")
    add("--images", type=int, default=500, help="training images to look at")
    add(
        "--register",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "ANNOTATIONS.json", "IMAGE_DIR"),
        help="make a COCO-format data set known under NAME; repeatable",
    )
    add("opts", nargs="*", help="config overrides, KEY VALUE ...")
    return parser.parse_args()


def latents(cfg, count: int):
    """Cells of `count` training images, augmented as in training."""
    codec = build_codec(cfg).to(cfg.MODEL.DEVICE)
    batches = Trainer.build_train_loader(cfg)
    items = (item for batch in batches for item in batch)
    for item in tqdm(islice(items, count), total=count, unit="image"):
        yield encode_item(item, codec, cfg.INPUT.FORMAT, "latent", cfg.MODEL.DEVICE)["latent"]


def main() -> int:
    args = parse_arguments()
    cfg = get_cfg()
    add_cdl_config(cfg)
    try:
        for name, annotations, images in args.register:
            register_dataset(name, annotations, images)
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
        mean, std = latent_statistics(latents(cfg, args.images))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(args.output, mean.cpu(), std.cpu(), build_codec(cfg).identity)
    except (ValueError, OSError, KeyError) as error:
        print(f"latent_statistics: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(mean)} channels, deviation {std.min():.3f} to {std.max():.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
