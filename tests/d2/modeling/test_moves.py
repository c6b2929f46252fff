import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from tests.d2.conftest import make_item, small_model
from tests.moves import count_moves


def test_a_distilled_training_step_stays_in_few_files(transfer_cfg, storage):
    model, items = small_model(transfer_cfg).train(), [make_item(96, 128)]
    model(items)  # builds the teacher
    _, moves, _ = count_moves(lambda: model(items))
    assert moves <= 40
