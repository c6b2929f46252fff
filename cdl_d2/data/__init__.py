"""Latents on disk."""

from cdl_d2.data.latent_file import StoredLatent, load_latent, save_latent

__all__ = ["StoredLatent", "load_latent", "save_latent"]
