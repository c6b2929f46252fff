"""Latents on disk."""

from cdl_d2.data.latent_store import LatentStore, Plan, StoredLatent
from cdl_d2.data.variant import Variant

__all__ = ["LatentStore", "Plan", "StoredLatent", "Variant"]
