"""Pictures of what models predict."""

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from PIL import Image

from cdl_d2.d2 import SafeCheckpointer
from cdl_d2.d2.applications.pictures import PictureMaker
from tests.d2.conftest import small_model
from tests.d2.modeling.test_multitask import tiny_cfg


@pytest.mark.parametrize("tasks", [("attributes",), ("parsing",), ("attributes", "parsing")])
def test_every_task_of_a_model_is_drawn(tasks, tmp_path):
    cfg = tiny_cfg("pixel", "MODEL.TASKS.NAMES", tasks, "MODEL.TASKS.WEIGHTS", (1.0,) * len(tasks))
    SafeCheckpointer(small_model(cfg), str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    image = np.full((64, 96, 3), 128, dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    PictureMaker(cfg).write(tmp_path / "a.png", tmp_path)
    picture = np.asarray(Image.open(tmp_path / "a_prediction.png"))
    assert picture.shape == image.shape
    is_drawn = (picture != image).any(-1)
    # Text is in one corner, and classes are nearly everywhere.
    assert is_drawn.any() and (is_drawn[32:, 64:].mean() > 0.9) == ("parsing" in tasks)
