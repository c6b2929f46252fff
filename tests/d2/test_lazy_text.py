"""A saved LazyConfig is data."""

import pytest
import yaml

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig

from cdl_d2.d2.config_files import find_config
from cdl_d2.d2.lazy_config import read_lazy_config
from cdl_d2.errors import CdlError

ATTACKS = {
    "a call": "!!python/object/apply:os.system ['touch {file}']",
    "an object": "!!python/object/new:os.system ['touch {file}']",
    "a name": "!!python/name:os.system ''",
    "a target": "{{_target_: os.system, command: 'touch {file}'}}",
    "a module's import": "{{_target_: detectron2.utils.env.os.system, command: 'touch {file}'}}",
    "a program": "{{_target_: detectron2.config.LazyConfig.load, filename: {file}}}",
    "a partial": "!!python/object/apply:functools.partial {{args: [!!python/name:os.system ''], "
    "state: [!!python/name:os.system '', [], {{command: 'touch {file}'}}, null]}}",
    "an interpolation": "{{_target_: '${{train.attack}}', command: 'touch {file}'}}",
    "a node elsewhere": "'${{train.node}}'",
    "a writer": "{{_target_: cdl_d2.files.write_text, path: {file}, text: x}}",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_saved_config_runs_no_code(attack, tmp_path):
    file, path = tmp_path / "file.py", tmp_path / "config.yaml"
    node = f"{{_target_: os.system, command: 'touch {file}'}}"
    path.write_text(
        "model:\n  _target_: detectron2.modeling.GeneralizedRCNN\n"
        f"  backbone: {attack.format(file=file)}\n"
        f"train: {{attack: os.system, node: {node}}}\n"
    )
    with pytest.raises(CdlError, match="LazyConfig"):
        read_lazy_config(path).build()
    assert not file.exists()


def test_objects_outside_of_the_model_are_not_made(tmp_path):
    config = LazyConfig.load(str(find_config("lazy/latent_mask_rcnn_small.py")))
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    attack = f"!!python/object/apply:os.system ['touch {tmp_path}/file']"
    with open(tmp_path / "config.yaml", "a", encoding="utf-8") as file:
        file.write(f"more: {attack}\n")
    read_lazy_config(tmp_path / "config.yaml").build()
    assert not (tmp_path / "file").exists()


def test_a_project_that_the_user_names_may_be_built(tmp_path, monkeypatch):
    (tmp_path / "lazy_project.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.dump({"model": {"_target_": "lazy_project.Net"}}))
    with pytest.raises(CdlError, match="DETECTRON2_ENV_MODULE"):
        read_lazy_config(path)
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "lazy_project")
    assert type(read_lazy_config(path).build()).__name__ == "Net"
