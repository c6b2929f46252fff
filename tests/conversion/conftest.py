"""Small photographs and a codec for conversions."""

import numpy as np
import pytest
from PIL import Image

SIZES = [(48, 64), (57, 50), (64, 48), (50, 71)]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of images that are smooth, as photographs are."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(16):
        height, width = SIZES[index % len(SIZES)]
        coarse = rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:02}.png")
    return folder
