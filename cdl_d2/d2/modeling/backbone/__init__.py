"""Networks on latents as Detectron2 backbones."""
