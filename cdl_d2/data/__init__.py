"""Latents on disk."""

from cdl_d2.data.latent_store import LatentStore, StoredLatent
from cdl_d2.data.plan import Plan
from cdl_d2.data.variant import Variant

__all__ = ["LatentStore", "Plan", "StoredLatent", "Variant"]
