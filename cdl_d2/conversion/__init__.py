"""Conversion of RGB networks of any library to latent input, with unlabelled images only."""

from cdl_d2.conversion.convert import Conversion, convert
from cdl_d2.conversion.distillation import DistillationOptions
from cdl_d2.conversion.latent_network import LatentNetwork
from cdl_d2.conversion.preprocessing import Preprocessing

__all__ = ["Conversion", "DistillationOptions", "LatentNetwork", "Preprocessing", "convert"]
