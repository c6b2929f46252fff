"""What the package brings along."""

from pathlib import Path

CONFIGS = Path(__file__).parent / "model_zoo" / "configs"  # a link to configs/ in a checkout
SAMPLES = Path(__file__).parent / "model_zoo" / "samples"  # images, each folder with annotations
