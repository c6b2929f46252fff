"""Model inputs: latents, reconstructions or pixels."""
