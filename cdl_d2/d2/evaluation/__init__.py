"""Evaluators that Detectron2 lacks."""
