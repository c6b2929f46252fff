#!/usr/bin/env python
"""Choose the channels of a fixed selection, from a trained gate or by variance.

Counts how often the gate of a model chooses each channel on the training data (empty channels do
not count), or computes the variance of each (the baseline of Wang et al., 2022), and prints the N
highest: for `python -m cdl_d2.codec compress`, and as config overrides.

Examples:
    python tools/select_channels.py --config-file output/gate/config.yaml --count 32 \\
        MODEL.WEIGHTS output/gate/model_final.pth
    python tools/select_channels.py --config-file output/gate/config.yaml --count 32 --by variance
"""

import sys
from itertools import islice

from cdl_d2.cli.command_line import exit_status, needed_packages

with needed_packages("select_channels"):
    import torch
    from detectron2.data import build_detection_test_loader
    from tqdm import tqdm

    from cdl_d2.cli.d2_arguments import add_overrides, add_registration, load_config, new_parser
    from cdl_d2.d2 import Trainer, build_codec, check_datasets
    from cdl_d2.d2.checkpoint import load_all_weights
    from cdl_d2.d2.data.latent_mapper import build_mapper
    from cdl_d2.nn.channel_selection import ChannelGate, gate_scores, most_chosen
    from cdl_d2.nn.statistics import latent_statistics


def parse_arguments():
    parser = new_parser(__doc__)
    parser.add_argument("--count", type=int, required=True, help="channels to keep")
    parser.add_argument("--by", default="gate", choices=("gate", "variance"))
    parser.add_argument("--images", type=int, help="look at so many (default: all)")
    add_registration(parser)
    add_overrides(parser)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_arguments()
    cfg = load_config(args)
    if cfg.INPUT.DOMAIN != "latent":
        raise ValueError(f"channels are selected of latents, not of domain {cfg.INPUT.DOMAIN!r}")
    if args.images is not None and args.images < 1:
        raise ValueError(f"--images {args.images}: at least 1 is needed")
    check_datasets(cfg)
    cfg.INPUT.LATENT_SOURCE = "model"
    model = Trainer.build_model(cfg).eval()
    channels = build_codec(cfg).latent_channels
    if not 1 <= args.count <= channels:
        raise ValueError(f"--count {args.count}: {cfg.MODEL.CODEC.NAME} has {channels} channels")
    if args.by == "gate":
        if model.selection is None or not isinstance(model.selection.chooser, ChannelGate):
            raise ValueError(
                "the config has no gate: set MODEL.SELECTION.KIND gate, or --by variance"
            )
        load_all_weights(model, cfg.MODEL.WEIGHTS)
    names = list(cfg.DATASETS.TRAIN)
    loader = build_detection_test_loader(cfg, names, mapper=build_mapper(cfg, is_train=False))
    items = tqdm(islice(loader, args.images), total=args.images or len(loader), unit="image")
    encoded = (model.encode(batch)[0] for batch in items)
    if args.by == "variance":
        scores = latent_statistics((each["latent"] for each in encoded), smallest_std=0.0)[1]
    else:
        pairs = ((each["latent"], each["channel_bits"]) for each in encoded)
        scores = gate_scores(model.selection.chooser, pairs).cpu()
    kept = most_chosen(scores, args.count).tolist()
    print("--channels " + ",".join(map(str, kept)))
    print(f'MODEL.SELECTION.KIND fixed MODEL.SELECTION.CHANNELS "{kept}"')


if __name__ == "__main__":
    sys.exit(exit_status("select_channels", main))
