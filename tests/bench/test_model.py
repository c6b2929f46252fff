import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.bench.model import run_benchmark
from tests.d2.conftest import small_cfg, teacher_files, teacher_folder, transfer_cfg  # noqa: F401


def test_every_part_is_measured_and_compared(transfer_cfg):  # noqa: F811
    rows = {row["part"]: row for row in run_benchmark(transfer_cfg, (256, 256), repeats=2)}
    parts = ["encode", "decode", "pixel_detector", "latent_detector"]
    parts += ["train_step", "train_step_transfer"]
    assert list(rows)[:6] == parts
    assert all(rows[part]["median ms"] >= rows[part]["fastest ms"] > 0 for part in parts)
    assert len(rows) == 8 and all(rows[name]["ratio"] > 0 for name in list(rows)[6:])


def test_training_steps_can_be_left_out(transfer_cfg):  # noqa: F811
    rows = run_benchmark(transfer_cfg, (256, 256), repeats=1, detection_only=True)
    assert len(rows) == 5 and not any("train" in row["part"] for row in rows)


def test_a_config_without_a_latent_student_is_refused():
    with pytest.raises(ValueError, match=r"needs INPUT\.DOMAIN latent"):
        run_benchmark(small_cfg("pixel"), (256, 256), repeats=1)
