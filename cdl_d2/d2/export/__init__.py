"""Parts of Detectron2 models that are functions of tensors, for export: a builder per kind."""
