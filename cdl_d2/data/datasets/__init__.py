"""Annotated images: COCO files, folders of classes, and samples that are drawn."""
