"""Output folder of a conversion."""

import pytest

from cdl_d2.conversion.distillation import STATE_FILE
from cdl_d2.conversion.output_folder import RECORD_FILE, conversion_folder
from cdl_d2.errors import CdlError

RECORD, RESULT = {"network": "a"}, "model_final.pth"


def test_two_conversions_to_one_folder_do_not_mix(tmp_path):
    folder = tmp_path / "out"
    with conversion_folder(folder, RECORD, [RESULT]):
        with (
            pytest.raises(CdlError, match="another process"),
            conversion_folder(folder, {"network": "b"}, [RESULT]),
        ):
            pass
        assert '"a"' in (folder / RECORD_FILE).read_text(encoding="utf-8")
        (folder / RESULT).touch()
    with pytest.raises(CdlError, match=RESULT), conversion_folder(folder, RECORD, [RESULT]):
        pass


def test_the_state_of_a_training_is_kept_until_the_result_is_written(tmp_path):
    with pytest.raises(KeyboardInterrupt), conversion_folder(tmp_path, RECORD, [RESULT]):
        (tmp_path / STATE_FILE).touch()
        raise KeyboardInterrupt
    other = conversion_folder(tmp_path, {"network": "b"}, [RESULT])
    with pytest.raises(CdlError, match="network"), other:
        pass
    with conversion_folder(tmp_path, RECORD, [RESULT]):
        assert (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / STATE_FILE).exists()
