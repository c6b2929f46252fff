#!/usr/bin/env python
"""Per-channel mean and deviation of the latents of a config's training images.

Give the file to a training as MODEL.LATENT_RESNET.STATISTICS; the checkpoint keeps them.

Example:
    python tools/latent_statistics.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml \\
        --images 500 --output output/statistics.safetensors
"""

import sys
from itertools import islice
from pathlib import Path

from cdl_d2.cli.command_line import exit_status, needed_packages

with needed_packages("latent_statistics"):
    from tqdm import tqdm

    from cdl_d2.cli.d2_arguments import add_overrides, add_registration, load_config, new_parser
    from cdl_d2.d2 import Trainer, build_codec, check_datasets
    from cdl_d2.nn.coded_input import encode_item
    from cdl_d2.nn.statistics import latent_statistics, save_statistics


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="file, .safetensors")
    parser.add_argument("--images", type=int, default=500, help="training images to look at")
    add_registration(parser)
    add_overrides(parser)
    return parser.parse_args()


def latents(cfg, count: int):
    """Cells of `count` training images, augmented as in training."""
    codec = build_codec(cfg).to(cfg.MODEL.DEVICE)
    batches = Trainer.build_train_loader(cfg)
    items = (item for batch in batches for item in batch)
    for item in tqdm(islice(items, count), total=count, unit="image"):
        yield encode_item(item, codec, cfg.INPUT.FORMAT, "latent", cfg.MODEL.DEVICE)["latent"]


def main():
    args = parse_arguments()
    cfg = load_config(args)
    check_datasets(cfg)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    mean, std = latent_statistics(latents(cfg, args.images))
    save_statistics(args.output, mean.cpu(), std.cpu(), build_codec(cfg).identity)
    print(f"{args.output}: {len(mean)} channels, deviation {std.min():.3f} to {std.max():.3f}")


if __name__ == "__main__":
    sys.exit(exit_status("latent_statistics", main))
