"""Pictures of what a model sees of an image, and of what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.utils.visualizer import ColorMode, Visualizer

from cdl_d2.codec.io.image_files import read_image, write_png
from cdl_d2.codec.pictures import latent_figure
from cdl_d2.d2.applications.backend import class_names_of
from cdl_d2.d2.checkpoint import load_all_weights
from cdl_d2.d2.modeling.building import build_model
from cdl_d2.d2.tasks import build_mapper, class_count, get_task
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

BEST = 5  # classes of an image that are named


class PictureMaker:
    """Runs a model on image files and draws.

    Args:
        cfg: of the model, with its MODEL.WEIGHTS.
        classes: names; None for COCO's where their number fits, else numbers.
        threshold: lowest score of a detection that is drawn.

    Raises:
        CdlError, OSError: if the weights cannot be read, or for another number of classes.
    """

    def __init__(self, cfg: CfgNode, classes: Sequence[str] | None = None, threshold: float = 0.5):
        cfg = cfg.clone()
        cfg.INPUT.LATENT_SOURCE = "model"  # images are encoded here, not read from a store
        self._names, self._threshold = _class_names(cfg, classes), threshold
        self._model = build_model(cfg).eval()
        load_all_weights(self._model, cfg.MODEL.WEIGHTS)
        self._mapper, self._order = build_mapper(cfg, is_train=False), cfg.INPUT.FORMAT
        self._cropped = get_task(cfg).of_one_size

    @torch.no_grad()
    def write(self, path: Path, folder: Path) -> None:
        """Write NAME_prediction.png and, of a model with a codec, NAME_decoded.png, the image that
        its decoder makes, and NAME_latent.png, the bits of the cells, the strongest channels and
        their scales.

        Raises:
            CdlError, OSError: if the image cannot be read, or a picture not be written.
        """
        item = self._mapper({"file_name": str(path)})
        pixels = item["image"].flip(0) if self._order == "BGR" else item["image"]  # RGB
        shown = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))
        original = shown if self._cropped else read_image(path).permute(1, 2, 0).numpy()
        drawn = self._draw(original, self._model([item])[0])
        write_png(folder / f"{path.stem}_prediction.png", drawn)
        coded_input = getattr(self._model, "coded_input", None)
        if coded_input is None or coded_input.codec is None:
            return
        codec = coded_input.codec_on(self._model.device)
        latent = codec.encode(pixels.to(self._model.device).float() / 255, with_bits=False)
        decoded = torch.round(codec.decode(latent) * 255).byte().cpu()
        write_png(folder / f"{path.stem}_decoded.png", decoded.permute(1, 2, 0).numpy())
        with write_atomically(folder / f"{path.stem}_latent.png") as temporary:
            latent_figure(codec, shown).savefig(temporary, format="png", dpi=80)

    def _draw(self, image: np.ndarray, output: dict[str, Any]) -> np.ndarray:
        """Draw what a model gave on an H x W x 3 uint8 RGB image: objects or classes of pixels, and
        as text the best classes of the image or its attributes."""
        metadata = Metadata(thing_classes=self._names, stuff_classes=self._names)
        visualizer = Visualizer(image, metadata, instance_mode=ColorMode.IMAGE)
        if "instances" in output:
            detections = output["instances"].to("cpu")
            visualizer.draw_instance_predictions(detections[detections.scores >= self._threshold])
        elif "sem_seg" in output:
            visualizer.draw_sem_seg(output["sem_seg"].argmax(0).cpu(), alpha=0.5)
        lines = self._best_classes(output) + _attributes(output)
        if lines:
            visualizer.draw_text("\n".join(lines), (4, 4), horizontal_alignment="left")
        return visualizer.get_output().get_image()

    def _best_classes(self, output: dict[str, Any]) -> list[str]:
        """Describe the most probable classes of an image."""
        if "scores" not in output:
            return []
        scores, classes = output["scores"].sort(descending=True)
        best = zip(scores[:BEST].tolist(), classes[:BEST].tolist(), strict=True)
        return [f"{self._names[index]} {score:.0%}" for score, index in best]


def _attributes(output: dict[str, Any]) -> list[str]:
    """Describe the attributes that an image has."""
    if "attributes" not in output:
        return []
    values = output["attributes"].tolist()
    names = output.get("attribute_names") or range(len(values))
    pairs = zip(names, values, strict=True)
    return [f"{name} {value:.0%}" for name, value in pairs if value > 0.5] or ["no attribute"]


def _class_names(cfg: CfgNode, given: Sequence[str] | None) -> list[str]:
    count = class_count(cfg)
    if given and len(given) != count:
        raise CdlError(f"{len(given)} class names for a model of {count} classes")
    return list(given or class_names_of(cfg))
