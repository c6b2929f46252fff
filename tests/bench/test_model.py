import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.bench.model import run_benchmark
from tests.d2.conftest import small_cfg, teacher_files, transfer_cfg  # noqa: F401


def test_every_part_is_measured_as_often_as_asked(transfer_cfg):  # noqa: F811
    measured = run_benchmark(transfer_cfg, (256, 256), repeats=2)
    parts = {"encode", "decode", "pixel_detector", "latent_detector"}
    assert measured.keys() == parts | {"train_step", "train_step_transfer"}
    assert all(len(part.seconds) == 2 and part.median > 0 for part in measured.values())


def test_a_config_without_a_latent_student_is_refused():
    with pytest.raises(ValueError, match=r"needs INPUT\.DOMAIN latent"):
        run_benchmark(small_cfg("pixel"), (256, 256), repeats=1)
