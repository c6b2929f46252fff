"""Pictures of what models read and predict."""

import numpy as np
import pytest
from PIL import Image

from cdl_d2.prediction import Predictor
from cdl_d2.prediction.pictures import write_pictures
from tests.commands import output_of


def test_an_image_and_a_bitstream_are_drawn(latent_model, images, coded, tmp_path):
    output_of("visualize", latent_model, images / "0.png", "--output", tmp_path)
    names = ["0_decoded.png", "0_latent.png", "0_prediction.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    write_pictures(Predictor.load(latent_model, "cpu"), coded / "1.cdlz", tmp_path / "1")
    assert Image.open(tmp_path / "1_decoded.png").size == Image.open(images / "1.png").size
    assert not (tmp_path / "1_latent.png").exists()


@pytest.mark.parametrize("tasks", [("attributes",), ("parsing",), ("attributes", "parsing")])
def test_every_task_of_a_model_is_drawn(tasks, tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from cdl_d2.d2 import SafeCheckpointer
    from tests.d2.conftest import small_model
    from tests.d2.modeling.test_multitask import tiny_cfg

    cfg = tiny_cfg("pixel", "MODEL.TASKS.NAMES", tasks, "MODEL.TASKS.WEIGHTS", (1.0,) * len(tasks))
    SafeCheckpointer(small_model(cfg), str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    image = np.full((64, 96, 3), 128, dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    write_pictures(Predictor.load(tmp_path, "cpu"), tmp_path / "a.png", tmp_path / "a")
    picture = np.asarray(Image.open(tmp_path / "a_prediction.png"))
    is_drawn = (picture != image).any(-1)
    # Text is in one corner, and classes are nearly everywhere.
    assert is_drawn.any() and (is_drawn[32:, 64:].mean() > 0.9) == ("parsing" in tasks)
