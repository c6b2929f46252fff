#!/usr/bin/env python
"""Train, resume or evaluate a detector, a classifier or a segmentor in the compressed domain.

Examples:
    python tools/train_net.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml --num-gpus 8
    python tools/train_net.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml --resume
    python tools/train_net.py --config-file configs/latent_mask_rcnn_R50_FPN.yaml --eval-only \\
        MODEL.WEIGHTS output/model_final.pth
    python tools/train_net.py --config-file configs/small/latent_mask_rcnn_small.yaml \\
        --register cells_train cells/train.json cells/train \\
        --register cells_val cells/val.json cells/val \\
        MODEL.ROI_HEADS.NUM_CLASSES 1 DATASETS.TRAIN "('cells_train',)" \\
        DATASETS.TEST "('cells_val',)" MODEL.DEVICE cpu
    python tools/train_net.py --config-file configs/classification/small/latent_resnet_small.yaml \\
        --register-classes train scenes/train --register-classes val scenes/val
"""

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from cdl_d2.cli.command_line import exit_status, needed_packages

with needed_packages("train_net"):
    from detectron2.engine import default_argument_parser, default_setup, launch
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from cdl_d2.cli.d2_arguments import add_registration, load_config
    from cdl_d2.d2 import SafeCheckpointer, Trainer, check_datasets
    from cdl_d2.d2.checkpoint import load_all_weights
    from cdl_d2.files import write_json


def parse_arguments():
    parser = default_argument_parser(epilog=__doc__)
    parser.formatter_class = RawDescriptionHelpFormatter
    add_registration(parser)
    return parser.parse_args()


def setup(args):
    cfg = load_config(args)
    cfg.freeze()
    check_datasets(cfg)
    if args.num_gpus > 1 and cfg.MODEL.DEVICE == "cpu":
        raise ValueError(f"--num-gpus {args.num_gpus} with MODEL.DEVICE cpu: add MODEL.DEVICE cuda")
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="cdl_d2")
    return cfg


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        resume = args.resume and checkpointer.has_checkpoint()
        load_all_weights(model, checkpointer.get_checkpoint_file() if resume else cfg.MODEL.WEIGHTS)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if results and comm.is_main_process():
        write_json(Path(cfg.OUTPUT_DIR) / "results.json", results)
    return results


def launch_main():
    args = parse_arguments()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    sys.exit(exit_status("train_net", launch_main))
