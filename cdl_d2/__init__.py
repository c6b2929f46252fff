"""Vision models that take the latents of learned image codecs as input instead of pixels.

Importing this package needs neither Detectron2 nor CompressAI: `cdl_d2.d2` imports the first,
and `cdl_d2.codec` the second when a codec is built.
"""

from cdl_d2.errors import check_system

check_system()

__version__ = "0.2.0.dev0"


def __getattr__(name: str):
    if name == "Predictor":  # imported on demand, to keep the import of the package fast
        from cdl_d2.prediction import Predictor

        return Predictor
    if name == "convert":
        from cdl_d2.conversion import convert

        return convert
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
