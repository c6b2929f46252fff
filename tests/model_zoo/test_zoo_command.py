"""cdl zoo list, show, download and verify; `add` is in test_models.py."""

import json

import pytest

from cdl_d2.model_zoo.card import CardWeights
from tests.commands import output_of, refused, run
from tests.model_zoo.conftest import CONTENT, SHA256, make_card, put


@pytest.fixture
def zoo(home, served):
    """A remote model, a packaged one, and one that is nowhere."""
    put(home, make_card("far", f"{served.address}/nuclei.safetensors"))
    put(home, make_card("lost", codec=None, weights=CardWeights(None, 5, "0" * 64)))
    put(home.parent / "package", make_card("near", "package:near.safetensors"))
    path = home.parent / "package" / "weights" / "near.safetensors"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return home


def places():
    return {row["name"]: row["where"] for row in json.loads(output_of("zoo", "list", "--json"))}


def test_a_list_says_where_weights_are(zoo):
    assert places() == {"far": "remote", "lost": "missing", "near": "packaged"}
    output_of("zoo", "download", "far")
    assert places()["far"] == "cached"
    table = output_of("zoo", "list").splitlines()
    assert table[0] == "| name | task | backend | codec | metrics | MB | where |"
    assert "| box AP 38.3, bits per pixel 0.251 |" in table[2]


def test_a_card_that_cannot_be_used_is_reported_and_the_others_are_listed(zoo):
    (zoo / "cards" / "broken.yaml").write_text("name: [")
    huge = put(zoo, make_card("huge"))
    huge.write_text(huge.read_text().replace(f"bytes: {len(CONTENT)}", f"bytes: {10**400}"))
    shadow = put(zoo, make_card("near"))
    status, output, errors = run("zoo", "list", "--json")
    assert status == 1 and {row["name"] for row in json.loads(output)} == {"far", "lost", "near"}
    first, second, third = errors.splitlines()
    assert "broken.yaml" in first and str(huge) in second
    assert str(shadow) in third and "near" in third
    assert run("zoo", "show", "far")[0] == 0


def test_an_empty_zoo_is_listed(home):
    assert "no models" in output_of("zoo", "list")
    assert output_of("zoo", "list", "--json") == "[]\n"


def test_a_card_is_shown_as_it_is(zoo):
    text = output_of("zoo", "show", "far")
    assert text.endswith((zoo / "cards" / "far.yaml").read_text())
    assert json.loads(output_of("zoo", "show", "far", "--json"))["date"] == "2026-11-24"
    assert f"# weights remote: {zoo / 'weights' / SHA256}.safetensors" in text
    assert "there are far" in refused("zoo", "show", "fare")


def test_a_download_is_done_once_and_says_where(zoo, served):
    for _ in range(2):
        assert output_of("zoo", "download", "far", "near") == (
            f"far: {zoo / 'weights' / SHA256}.safetensors\n"
            f"near: {zoo.parent / 'package' / 'weights' / 'near.safetensors'}\n"
        )
    assert len(served.requests) == 1
    served.content = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
    (zoo / "weights" / f"{SHA256}.safetensors").unlink()
    assert "500" in refused("zoo", "download", "far")


def test_verify_ends_with_one_if_a_file_differs(zoo):
    assert run("zoo", "verify")[:2] == (0, "near: as its card says\n")
    output_of("zoo", "download", "far")
    file = zoo / "weights" / f"{SHA256}.safetensors"
    file.write_bytes(CONTENT[::-1])
    status, output, errors = run("zoo", "verify")
    assert (status, output) == (1, "near: as its card says\n")
    assert errors.count("\n") == 1 and str(file) in errors and SHA256 in errors
    assert run("zoo", "verify", "near")[0] == 0
    assert run("zoo", "verify", "far")[0] == 1


def test_what_is_not_here_cannot_be_verified(zoo):
    assert "cdl zoo download far" in refused("zoo", "verify", "near", "far")
