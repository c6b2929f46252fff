"""Programs that know Detectron2 alone, run by `cdl run-script`: small ones, and Detectron2's own
where its source is beside the installed package, or in DETECTRON2_SOURCE."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import detectron2
from detectron2.modeling import build_model

from cdl_d2.codec.io.weights_file import save_checkpoint
from cdl_d2.d2.config_files import read_config
from cdl_d2.errors import CdlError
from tests import warm
from tests.d2.conftest import CONFIGS, SMALL

SOURCE = Path(os.environ.get("DETECTRON2_SOURCE", Path(detectron2.__file__).parents[1]))
CLIENT = Path(__file__).parent / "plain_training.py"
LAZY_CLIENT = Path(__file__).parent / "lazy_training.py"
CONFIG = ["--config-file", "detection/small/latent_mask_rcnn_small.yaml"]
TUTORIAL = (CONFIGS.parent / "docs/tutorials/detectron2.md").read_text(encoding="utf-8")
SHORT = [*SMALL, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()"]


@pytest.fixture
def run_script(server, coco_dataset, tmp_path):
    """Runs a script in a folder of its own, with the small data set as `train` and `val`."""
    known = [word for name in ("train", "val") for word in ("--register", name, *coco_dataset)]

    def run(script, *words):
        command = warm.command(server, "cdl", "run-script", script, *known, *words)
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.fixture
def written(tmp_path):
    """Writes a script."""

    def write(text):
        (tmp_path / "script.py").write_text(text)
        return tmp_path / "script.py"

    return write


def metrics(folder):
    lines = (folder / "metrics.json").read_text().splitlines()
    return json.loads(lines[-1])


@pytest.mark.parametrize("architecture", ["CompressedRCNN", "TransferRCNN"])
def test_a_training_loop_of_a_user(run_script, teacher_files, tmp_path, architecture):
    teacher = ["MODEL.TEACHER.CONFIG_FILE", teacher_files[0]]
    teacher += ["MODEL.TEACHER.WEIGHTS", teacher_files[1]]
    options = ["MODEL.META_ARCHITECTURE", architecture, "OUTPUT_DIR", "out"]
    done = run_script(CLIENT, *CONFIG, *SHORT, *teacher, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = {name for name in metrics(tmp_path / "out") if name.startswith("loss_")}
    assert ("loss_transfer_features" in losses) == (architecture == "TransferRCNN")
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())


def test_processes_that_a_script_starts_know_the_same(run_script, written):
    script = written(
        "import multiprocessing as mp\n"
        "def check():\n"
        "    from detectron2.config import get_cfg\n"
        "    from detectron2.data import DatasetCatalog\n"
        "    assert 'CODEC' in get_cfg().MODEL and len(DatasetCatalog.get('train')) == 4\n"
        "if __name__ == '__main__':\n"
        "    check()\n"
        "    process = mp.get_context('spawn').Process(target=check)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    raise SystemExit(process.exitcode)\n"
    )
    done = run_script(script)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_script_gets_its_words_and_its_status_is_the_commands(run_script, written):
    script = written("import sys; print(sys.argv[1:]); sys.exit(len(sys.argv))")
    done = run_script(script, "--flag", "-n", 2, "KEY", "a b", "--", "--help")
    assert done.stdout.strip() == str(["--flag", "-n", "2", "KEY", "a b", "--help"])
    assert done.returncode == 7


@pytest.mark.parametrize("wrong", ["open('nowhere.txt')", "import nowhere", "1 / 0"])
def test_what_goes_wrong_in_a_script_keeps_its_traceback(run_script, written, wrong):
    done = run_script(written(f"def fail():\n    {wrong}\nfail()\n"))
    assert done.returncode == 1
    assert "script.py" in done.stderr and "in fail" in done.stderr


@pytest.mark.parametrize("words", [["none.py"], [CLIENT, "--config-file", "none.yaml"], [__file__]])
def test_what_cannot_be_run_is_one_line(run_script, words, tmp_path):
    if words == [__file__]:
        (tmp_path / "program").touch()
        words = [tmp_path / "program"]
    done = run_script(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("cdl run-script: ") and done.stderr.count("\n") == 1


def test_the_analysis_of_the_tutorial_runs_as_printed(run_script):
    script = SOURCE / "tools/analyze_model.py"
    if not script.is_file():
        pytest.skip("Detectron2's source is not there")
    [line] = [each for each in TUTORIAL.splitlines() if "analyze_model.py" in each]
    line = line.replace("$DATA", "").replace("$CONFIG", shlex.join(CONFIG))
    words = shlex.split(line.partition("analyze_model.py")[2])
    options = [*SHORT, "MODEL.META_ARCHITECTURE", "CompressedRCNN", "OUTPUT_DIR", "out"]
    done = run_script(script, *words, *options)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_project_brings_its_own_keys_and_classes(tmp_path):
    """By the module that the tutorial prints."""
    [project] = [
        each for each in TUTORIAL.split("```") if each.startswith("python\n# my_project.py")
    ]
    (tmp_path / "my_project.py").write_text(project.removeprefix("python\n"))
    (tmp_path / "my_heads.py").write_text(
        "from detectron2.modeling import ROI_BOX_HEAD_REGISTRY\n"
        "from detectron2.modeling.roi_heads import FastRCNNConvFCHead\n"
        "from cdl_d2.d2 import CompressedRCNN\n"
        "@ROI_BOX_HEAD_REGISTRY.register()\n"
        "class MyHead(FastRCNNConvFCHead):\n"
        "    pass\n"
        "def add_my_config(cfg):\n"
        "    cfg.MODEL.MINE = 3\n"
    )
    (tmp_path / "my.yaml").write_text(
        f"_BASE_: {CONFIGS}/detection/small/pixel_mask_rcnn_small.yaml\n"
        "MODEL: {MINE: 4, ROI_BOX_HEAD: {NAME: MyHead}}\n"
    )
    (tmp_path / "build.py").write_text(
        "from cdl_d2.d2.config_files import read_config\n"
        "from cdl_d2.d2.building import build_model\n"
        "cfg = read_config('my.yaml')\n"
        "print(cfg.MODEL.MINE, type(build_model(cfg).roi_heads.box_head).__name__)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = os.environ | {"DETECTRON2_ENV_MODULE": "my_project", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "build.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["4", "MyHead"], done.stderr[-3000:]
    with pytest.raises(CdlError, match=r"MODEL\.MINE.*DETECTRON2_ENV_MODULE"):
        read_config(tmp_path / "my.yaml")


@pytest.mark.parametrize("script", [LAZY_CLIENT, SOURCE / "tools/lazyconfig_train_net.py"])
def test_a_lazy_config_trains_a_student_with_transfer(run_script, tmp_path, script):
    if not script.is_file():
        pytest.skip("Detectron2's source is not there")
    teacher = read_config(
        "detection/small/pixel_mask_rcnn_small.yaml", ["MODEL.ROI_HEADS.NUM_CLASSES", 2]
    )
    (tmp_path / "teacher.yaml").write_text(teacher.dump())
    save_checkpoint(tmp_path / "teacher.pth", {"model": build_model(teacher).state_dict()})
    sizes = {"train": "[96]", "test": "96"}
    changes = [
        f"dataloader.{part}.mapper.augmentations.0.short_edge_length={size}"
        for part, size in sizes.items()
    ]
    changes += ["train.max_iter=2", "train.log_period=1", "train.output_dir=out"]
    changes += ["model.roi_heads.num_classes=2", "model.teacher.config_file=teacher.yaml"]
    changes += ["model.teacher.weights=teacher.pth"]
    config = ["--config-file", "lazy/latent_mask_rcnn_small.py"]
    done = run_script(script, *config, *changes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model_final.pth").exists()
    log = (tmp_path / "out" / "metrics.json").read_text()
    assert script != LAZY_CLIENT or "loss_transfer_mask" in log


@pytest.mark.parametrize(
    ("script", "words", "result"),
    [
        ("tools/plain_train_net.py", [], "out/model_final.pth"),
        (
            "tools/visualize_data.py",
            ["--source", "annotation", "--output-dir", "seen"],
            "seen/003.png",
        ),
    ],
)
def test_detectron2s_own(run_script, tmp_path, script, words, result):
    if not (SOURCE / script).is_file():
        pytest.skip("Detectron2's source is not there")
    if "import cv2" in (SOURCE / script).read_text():
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    options = [*SHORT, "MODEL.META_ARCHITECTURE", "CompressedRCNN", "OUTPUT_DIR", "out"]
    done = run_script(SOURCE / script, *CONFIG, *words, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / result).exists()
