"""Files of compressed images, whole or in two layers."""
