"""Pictures of what a model reads of an image and of what it predicts."""

from __future__ import annotations

from pathlib import Path

import torch

from cdl_d2.codec import Bitstream
from cdl_d2.codec.io.image_files import write_png
from cdl_d2.codec.pictures import latent_figure
from cdl_d2.files import write_atomically
from cdl_d2.prediction.predictor import Predictor
from cdl_d2.prediction.reading import Source, open_source


@torch.no_grad()
def write_pictures(
    predictor: Predictor, source: Source, path: Path, threshold: float = 0.5
) -> None:
    """Write the pictures of an image or a bitstream.

    `PATH_prediction.png` shows the prediction. For a model with a codec there are also
    `PATH_decoded.png`, the reconstruction, and for images `PATH_latent.png`, the bits of the latent
    positions, the strongest channels and their predicted standard deviations.

    Args:
        predictor: predictor of the model.
        source: image or bitstream.
        path: of the pictures, without their endings.
        threshold: lowest score of detections in the picture.

    Raises:
        CdlError, OSError: if the source cannot be read, or a picture not be written.
    """

    def save(ending: str, pixels: torch.Tensor) -> None:
        write_png(path.with_name(f"{path.name}_{ending}.png"), pixels.permute(1, 2, 0).numpy())

    prediction = predictor(source)
    save("prediction", torch.from_numpy(prediction.draw(threshold=threshold)).permute(2, 0, 1))
    model = predictor.model
    if model.coded_input.codec is None:
        return
    opened = open_source(source)
    if isinstance(opened, Bitstream):
        save("decoded", predictor.read.picture(source))
        return
    codec, image = model.coded_input.codec_on(model.device), model.resize(opened)
    latent = codec.encode(image.to(model.device).float() / 255, with_bits=False)
    save("decoded", torch.round(codec.decode(latent) * 255).byte().cpu())
    with write_atomically(path.with_name(f"{path.name}_latent.png")) as temporary:
        figure = latent_figure(codec, image.permute(1, 2, 0).contiguous().numpy())
        figure.savefig(temporary, format="png", dpi=80)
