"""`cdl visualize`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import Device, InputsAndOverrides, Model, split_overrides
from cdl_d2.cli.output import for_each


def visualize(
    model: Model,
    /,
    *inputs: InputsAndOverrides,
    output: Path,
    threshold: float = 0.5,
    classes: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    device: Device = None,
) -> int:
    """Draw the predictions of a model on images, and what it reads of them.

    ```
    cdl visualize output/mine photos/*.jpg --output pictures
    ```

    For each image NAME: NAME_prediction.png and, for a model with a codec, NAME_decoded.png, the
    reconstructed image, and NAME_latent.png, the bits of each latent position, the strongest
    channels of the latent, and the standard deviations that its entropy model predicts for them.

    Args:
        output: Folder of the pictures.
        threshold: Lowest score of detections in the picture.
        classes: Class names, instead of the model's own.
    """
    from cdl_d2.errors import CdlError
    from cdl_d2.prediction import Predictor
    from cdl_d2.prediction.loading import load_model
    from cdl_d2.prediction.pictures import write_pictures
    from cdl_d2.prediction.sources import find_sources

    words, overrides = split_overrides(inputs)
    sources = find_sources(words, output)
    predictor = Predictor(load_model(model, device, classes, overrides))
    names = [PurePosixPath(name).with_suffix("") for name in sources]
    paths = dict(zip(sources, (output / name for name in names), strict=True))
    for name, path in paths.items():
        if list(paths.values()).count(path) > 1:
            raise CdlError(f"the pictures of {name} and of another input would both be {path}")

    def write(name: str) -> None:
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        write_pictures(predictor, sources[name], paths[name], threshold)

    status = for_each(sources, write, "cdl visualize")
    print(f"pictures in {output}")
    return status
