"""Uses of a trained Detectron2 model: backend adapter, conversion, export, measurements."""
