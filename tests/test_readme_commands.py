import json
import re

from tests.readme import ROOT, TEXT, blocks, run_blocks


def test_every_command_is_run_by_a_test():
    unmarked = re.findall(r"(?<!-->)\n```bash\n(.*?)```", TEXT, re.DOTALL)
    assert not unmarked
    detection = {"quickstart", "data", "torchvision", "detectron2", "bitstreams", "store"}
    runs = detection | {"classification", "segmentation", "selection"}
    assert blocks().keys() == runs
    assert TEXT.count("```bash") == len(runs) + 1  # building Detectron2 needs its repository


def test_the_two_commands_are_targets():
    """`make test` runs this test; `tools/quickstart.py` has its own, in miniature."""
    makefile = (ROOT / "Makefile").read_text()
    assert blocks()["quickstart"].split() == ["make", "quickstart", "make", "test"]
    assert "quickstart: installed\n\tpython tools/quickstart.py" in makefile
    assert "test: lint\n\tpython -m pytest" in makefile


def test_own_data_on_torchvision_from_images_and_from_a_store(tmp_path):
    run_blocks(tmp_path, "data", "torchvision", "bitstreams", "store")
    for folder in ("student", "from_store"):
        results = json.loads((tmp_path / "output" / folder / "results.json").read_text())
        assert results["rate"]["bpp"] > 0
    assert len(list((tmp_path / "decoded").iterdir())) == 5
