"""Vision models that look at compressed latents instead of pixels.

Importing this package needs neither Detectron2 nor CompressAI: `cdl_d2.d2` needs the first,
`cdl_d2.codec` imports the second when a codec is built.
"""

__version__ = "0.1.0"
