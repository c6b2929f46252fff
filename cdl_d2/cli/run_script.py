"""`cdl run-script`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import NO_DATASETS, Datasets


def run_script(
    script: Path,
    /,
    *words: Annotated[str, Parameter(allow_leading_hyphen=True)],
    datasets: Datasets = NO_DATASETS,
) -> None:
    r"""Run a training, demo or analysis script written for Detectron2, unchanged.

    The script's `get_cfg` has the keys of this package; it finds our models, data sets and configs:

    ```
    cdl run-script detectron2/tools/plain_train_net.py \
        --register train cells/train.json cells/train --register val cells/val.json cells/val \
        --config-file detection/small/latent_mask_rcnn_small.yaml SOLVER.MAX_ITER 1000
    cdl run-script detectron2/tools/analyze_model.py --tasks flop activation \
        --register val cells/val.json cells/val --config-file my_config.yaml
    cdl run-script detectron2/tools/plain_train_net.py -- --help
    ```

    The exit status is that of the script. A program that `cdl` does not start, such as `torchrun`,
    finds keys and models by Detectron2's own variable, `DETECTRON2_ENV_MODULE=cdl_d2.d2`.

    Args:
        script: Python file.
        words: Arguments of the script; after `--` also those that `cdl` has itself.
    """
    from cdl_d2.d2.applications import scripts

    scripts.run_script(script, words, vars(datasets))
