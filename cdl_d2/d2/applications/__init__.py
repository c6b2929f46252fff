"""Uses of a trained Detectron2 model: prediction, conversion, export, pictures."""
