"""Predictions of trained models, one by one or of whole archives."""

from cdl_d2.prediction.predictor import Predictor
from cdl_d2.prediction.results import Classification, Detections, Prediction, Segmentation

__all__ = ["Classification", "Detections", "Prediction", "Predictor", "Segmentation"]
