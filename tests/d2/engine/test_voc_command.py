"""`cdl train` on data in the layout of PASCAL VOC, as a user runs it."""

import json

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from cdl_d2.d2.config_files import read_config
from tests.commands import output_of, refused
from tests.d2.conftest import PIXEL, SMALL
from tests.voc import TWENTY, write_voc

NAMES = ["voc_2007_mine", "voc_mine"]
PAIR = "detection/liu2022"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder, [[name, "person"] for name in TWENTY[:3]])
    (folder / "classes.txt").write_text("\n".join(TWENTY))
    return folder


def words_for(name, folder, out, *options):
    data = [w for each in NAMES for w in ("--register-voc", each, folder, "train")]
    short = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", "MODEL.DEVICE", "cpu"]
    tiny = ["MODEL.CODEC.NAME", "tiny-bmshj2018-hyperprior", "MODEL.CODEC.QUALITY", 2]
    sets = ["DATASETS.TRAIN", f"('{NAMES[0]}',)", "DATASETS.TEST", f"{tuple(NAMES)}"]
    words = ["train", "--config-file", f"{PAIR}/{name}_faster_rcnn_voc.yaml", *data, *SMALL]
    words += [*PIXEL, *tiny, *short, *sets, "MODEL.BRIDGE.WIDTH", 8, "OUTPUT_DIR", out]
    return [*words, "MODEL.ROI_HEADS.NUM_CLASSES", 20, *options]


def test_a_teacher_and_a_gated_student_of_twenty_classes(folder, tmp_path):
    output_of(*words_for("pixel", folder, tmp_path / "teacher", "MODEL.WEIGHTS", ""))
    weights = tmp_path / "teacher" / "model_final.pth"
    teacher = ["MODEL.TEACHER.CONFIG_FILE", tmp_path / "teacher" / "config.yaml"]
    teacher += ["MODEL.TEACHER.WEIGHTS", weights, "MODEL.WEIGHTS", weights]
    output_of(*words_for("gate", folder, tmp_path / "student", *teacher))
    results = json.loads((tmp_path / "student" / "results.json").read_text())
    for name in NAMES:
        assert results[name]["bbox"].keys() == {"AP", "AP50", "AP75"}
        assert 0 <= results[name]["bbox"]["AP"] <= 100
        assert results[name]["rate"]["bpp"] > 0
        assert 0 < results[name]["rate"]["channels"] < 192
    kept = read_config(tmp_path / "student" / "config.yaml").MODEL
    assert tuple(kept.CLASS_NAMES) == TWENTY


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    words = words_for("pixel", folder, tmp_path, "MODEL.WEIGHTS", "")
    assert "MODEL.ROI_HEADS.NUM_CLASSES 20" in refused(*words, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    assert "MODEL.MASK_ON False" in refused(*words, "MODEL.MASK_ON", True)
    assert "there is no" in refused(*words, "--register-voc", "other", folder, "test")
    unknown = refused(*words, "DATASETS.TEST", "('other',)")
    assert "--register-voc other FOLDER SPLIT" in unknown
