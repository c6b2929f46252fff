import socket

import pytest

from cdl_d2 import model_zoo
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.catalog import download
from tests.model_zoo.conftest import CONTENT, SHA256, make_card, put
from tests.web import file_answer


def test_a_mirror_serves_the_file_of_the_same_name(served, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    monkeypatch.setenv("CDL_MIRROR", f"{served.address}/mirror/")
    download("https://nowhere.invalid/a/b.safetensors?x=1", len(CONTENT), SHA256, path)
    assert path.read_bytes() == CONTENT
    assert served.requests == ["GET /mirror/b.safetensors HTTP/1.1"]
    path.unlink()
    served.content = file_answer(CONTENT[::-1])
    with pytest.raises(CdlError, match=SHA256):
        download("https://nowhere.invalid/b.safetensors", len(CONTENT), SHA256, path)


def test_without_a_network_the_error_says_what_to_do(home):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x.safetensors"
        put(home, make_card(url=url))
        with pytest.raises(FileNotFoundError) as caught:
            model_zoo.weights_file("nuclei-bridge")
    text = str(caught.value)
    assert url in text and "refused" in text and "CDL_MIRROR" in text
    assert "\n" not in text


def test_a_folder_that_cannot_be_made_is_one_line(served, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "weights" / "x.safetensors"
    with pytest.raises(OSError, match="CDL_HOME"):
        download(served.address, len(CONTENT), SHA256, path)
