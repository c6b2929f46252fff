"""Latents on disk."""

from cdl_d2.data.store.latent_store import LatentStore
from cdl_d2.data.store.plan import Plan
from cdl_d2.data.store.variant import Variant

__all__ = ["LatentStore", "Plan", "Variant"]
