"""Networks that take latents as input."""
