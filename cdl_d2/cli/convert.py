"""`cdl convert`."""

from __future__ import annotations

from pathlib import Path

from cdl_d2.cli.options import CodecOptions, InputsAndOverrides, Model, split_overrides
from cdl_d2.cli.output import report

LEAST_EXPLAINED = 0.5  # share of the variance; useful fits leave a few percent unexplained


def convert(
    model: Model,
    /,
    *inputs: InputsAndOverrides,
    codec: CodecOptions,
    output: Path,
) -> None:
    r"""Convert a trained RGB model to latent input, with unlabelled images and without training.

    ```
    cdl convert output/pixel_mask_rcnn_small photos --output converted \
        --codec tiny-bmshj2018-hyperprior --quality 2
    ```

    An adapter (bridge) replaces the first convolution of a detector, segmentation model or
    classifier; it is fitted in closed form to the images, in about a minute. The output folder has
    a `config.yaml` and a `model_final.pth`, as that of a training.

    Args:
        output: Folder to write the model to.
    """
    from cdl_d2.prediction.loading import find_detectron2_config
    from cdl_d2.prediction.sources import find_image_files

    words, overrides = split_overrides(inputs)
    config_file, changes, weights = find_detectron2_config(model)
    images = find_image_files(words)
    from cdl_d2.d2.applications.convert import YamlConversion
    from cdl_d2.d2.applications.lazy_conversion import LazyConversion
    from cdl_d2.yaml_text import is_lazy_config

    lazy = config_file.is_file() and is_lazy_config(config_file)
    explained = (LazyConversion if lazy else YamlConversion)(
        config_file, images, codec.choice(), output, weights, tuple(changes), tuple(overrides)
    ).run()
    print(
        f"{output}: the bridge explains {100 * explained:.1f} % of the variance of the first "
        "convolution's output"
    )
    if explained < LEAST_EXPLAINED:
        report(
            "cdl convert",
            "too little for a useful model: is the codec trained (--codec-weights), and do the "
            "images resemble those that the model is for?",
        )
