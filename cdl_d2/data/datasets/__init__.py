"""Annotated images: COCO and VOC files, folders of classes, attributes, synthetic shapes."""
