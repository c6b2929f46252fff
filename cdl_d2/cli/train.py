"""`cdl train`."""

from __future__ import annotations

from cdl_d2.cli.options import NO_DATASETS, ConfigFile, Datasets, Overrides


def train(
    *overrides: Overrides,
    config_file: ConfigFile,
    resume: bool = False,
    eval_only: bool = False,
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    datasets: Datasets = NO_DATASETS,
) -> None:
    r"""Train, resume or evaluate a detector, classifier or segmentation model with Detectron2.

    ```
    cdl train --config-file detection/latent_mask_rcnn_R50_FPN.yaml --num-gpus 8
    cdl train --config-file detection/latent_mask_rcnn_R50_FPN.yaml --eval-only \
        MODEL.WEIGHTS output/latent_mask_rcnn_R50_FPN/model_final.pth
    cdl train --config-file detection/small/latent_mask_rcnn_small.yaml \
        --register cells_train cells/train.json cells/train \
        --register cells_val cells/val.json cells/val \
        MODEL.ROI_HEADS.NUM_CLASSES 1 MODEL.DEVICE cpu \
        DATASETS.TRAIN "('cells_train',)" DATASETS.TEST "('cells_val',)"
    cdl train --config-file classification/small/latent_resnet_small.yaml \
        --register-classes train scenes/train --register-classes val scenes/val
    ```

    Args:
        resume: Continue from the last checkpoint in OUTPUT_DIR, as if never interrupted.
        eval_only: Only evaluate MODEL.WEIGHTS.
        num_gpus: GPUs per machine.
        num_machines: Number of machines.
        machine_rank: Number of this machine, from 0.
        dist_url: URL at which the machines connect; auto for a free port of this machine.
    """
    from cdl_d2.d2.engine.run_config import RunConfig
    from cdl_d2.d2.engine.train_net import Training

    config = RunConfig(config_file, overrides, vars(datasets))
    Training(config, resume, eval_only, num_gpus, num_machines, machine_rank, dist_url).launch()
