"""`cdl visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import ConfigFile, Overrides, load_config
from cdl_d2.cli.output import for_each
from cdl_d2.errors import CdlError

MANY = Parameter(consume_multiple=True)


def visualize(
    *overrides: Overrides,
    config_file: ConfigFile,
    input: Annotated[list[Path], MANY],
    output: Path,
    threshold: float = 0.5,
    classes: Annotated[list[str] | None, MANY] = None,
) -> int:
    """Draw what a detector, segmentor or classifier sees and finds in images.

    ```
    cdl visualize --input photos/*.jpg --output pictures \\
        --config-file output/mine/config.yaml \\
        MODEL.WEIGHTS output/mine/model_final.pth
    ```

    For each image NAME: NAME_prediction.png and, for a model with a codec, NAME_decoded.png, the
    image that its decoder makes, and NAME_latent.png, the bits of each cell, the strongest channels
    of the latent, and the scales that its entropy model predicts for them.

    Args:
        input: Images.
        output: Folder for the pictures.
        threshold: Lowest score of a detection that is drawn.
        classes: Their names; default COCO's, or numbers.
    """
    stems = [path.stem for path in input]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise CdlError(f"pictures are named by file name, and {twice[0]} comes twice")
    cfg = load_config(config_file, overrides)
    from cdl_d2.d2.applications.pictures import PictureMaker

    maker = PictureMaker(cfg, classes, threshold)
    output.mkdir(parents=True, exist_ok=True)
    status = for_each(input, lambda path: maker.write(path, output), "cdl visualize")
    print(f"pictures in {output}")
    return status
