"""Detections drawn on an image."""

from __future__ import annotations

import numpy as np
from detectron2.structures import Instances
from detectron2.utils.visualizer import ColorMode, Visualizer


def draw_detections(
    image: np.ndarray, instances: Instances, metadata, threshold: float
) -> np.ndarray:
    """Boxes, masks and scores above `threshold` drawn on an H x W x 3 uint8 RGB image."""
    instances = instances.to("cpu")
    visualizer = Visualizer(image, metadata, instance_mode=ColorMode.IMAGE)
    shown = instances[instances.scores >= threshold]
    return visualizer.draw_instance_predictions(shown).get_image()
