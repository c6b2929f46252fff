import subprocess
import sys
from pathlib import Path

import pytest

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo import get_config_file
from cdl_d2.packaged import RENAMED_CONFIGS


def test_a_config_has_a_path():
    assert Path(get_config_file("detection/small/latent_mask_rcnn_small.yaml")).is_file()


def test_a_config_has_a_short_name():
    short = get_config_file("latent_mask_rcnn_small.yaml")
    assert short == get_config_file("detection/small/latent_mask_rcnn_small.yaml")


@pytest.mark.parametrize(("old_name", "name"), RENAMED_CONFIGS.items())
def test_a_renamed_config_keeps_its_earlier_name(old_name, name):
    assert get_config_file(old_name) == get_config_file(name)


def test_a_misspelt_name_gets_what_is_near():
    with pytest.raises(CdlError, match="small/latent_mask_rcnn_small"):
        get_config_file("detection/small/latent_maskrcnn_small.yaml")


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../__init__.py", "detection"])
def test_only_configs_have_names(name):
    with pytest.raises(CdlError):
        get_config_file(name)


def test_names_need_no_detectron2():
    code = "import sys; sys.modules['detectron2'] = None; import cdl_d2.model_zoo"
    subprocess.run([sys.executable, "-c", code], check=True)
