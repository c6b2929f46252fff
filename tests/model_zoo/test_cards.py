import re

import pytest
import yaml

from cdl_d2 import model_zoo
from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.card import read_card
from tests.model_zoo.conftest import CONFIG, CONTENT, SHA256, make_card, put

BOMB = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]" for i in range(1, 12))])


def changed(home, key, value):
    """A card's file with another value; or, for KeyError, without the key."""
    path = put(home, make_card())
    content = yaml.safe_load(path.read_text())
    *parts, last = key.split(".")
    place = content
    for part in parts:
        place = place[part]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("changes", [{}, {"codec": None, "seed": None, "overrides": ()}])
def test_a_card_comes_back_as_it_was_written(home, changes):
    card = make_card(**changes)
    assert read_card(put(home, card)) == card


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../x"),
        ("task", "detecting"),
        ("task", ["detection"]),
        ("backend", "jax"),
        ("config", {"a": 1}),
        ("config", "/etc/hostname"),
        ("config", "detection/../../../pyproject.toml"),
        ("overrides", ["MODEL.WEIGHTS"]),
        ("classes", []),
        ("classes", "nucleus"),
        ("codec", "tiny"),
        ("codec.weights", 1234567812345678),
        ("codec.quality", True),
        ("data.licence", None),
        ("data.images", 0),
        ("metrics.box AP", "high"),
        ("metrics.box AP", float("nan")),
        ("seed", -1),
        ("date", "yesterday"),
        ("weights.url", "http://example.org/x.safetensors"),
        ("weights.url", "package:../x.safetensors"),
        ("weights.sha256", "abc"),
        ("weights.url", f"package:{'x' * 250}.safetensors"),
        ("weights.bytes", 1.5),
        ("weights.bytes", 10**400),
        ("seed", 2**64),
    ],
)
def test_a_value_of_another_kind_is_named_with_file_and_key(home, key, value):
    path = changed(home, key, value)
    with pytest.raises(CdlError) as error:
        model_zoo.card("nuclei-bridge")
    assert str(path) in str(error.value)
    assert f" {key}" in str(error.value) and repr(value)[:20] in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "config is 'detection/small/.*; expected the values of a DetectorConfig"),
        ({"config": {"domain": "image"}}, "overrides is .*; expected none"),
        ({"config": {}, "overrides": (), "task": "segmentation"}, "task is .*expected detection"),
    ],
)
def test_a_model_of_torchvision_is_a_detector_with_its_config_in_the_card(home, changes, message):
    path = put(home, make_card(backend="torchvision", **changes))
    with pytest.raises(CdlError, match=message):
        read_card(path)


def test_a_card_written_before_calls_its_backend_an_engine(home):
    path = put(home, make_card())
    path.write_text(path.read_text().replace("backend:", "engine:"))
    assert read_card(path) == make_card()


def test_a_config_that_makes_no_detector_is_named_with_its_card(home):
    put(home, make_card(backend="torchvision", overrides=(), config={"domain": "image"}))
    with pytest.raises(CdlError, match=r"nuclei-bridge\.yaml: config is not that of a Detector"):
        model_zoo.get_config("nuclei-bridge")


def test_a_key_that_is_missing_or_unknown_is_named(home):
    path = changed(home, "data.licence", KeyError)
    with pytest.raises(CdlError, match=r"data\.licence is missing"):
        read_card(path)
    with pytest.raises(CdlError, match="unknown key metric"):
        read_card(changed(home, "metric", 1))
    with pytest.raises(CdlError, match=r"unknown key weights\.size"):
        read_card(changed(home, "weights.size", 1))


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "date: 2026-13-45", "\x00", "x: !!python/x y", BOMB]
)
def test_a_file_that_is_no_card_is_named(home, text):
    path = put(home, make_card())
    path.write_text(text)
    with pytest.raises(CdlError, match=str(path)):
        model_zoo.card("nuclei-bridge")


def test_a_user_cannot_shadow_a_packaged_model(home):
    put(home.parent / "package", make_card())
    assert model_zoo.names() == ["nuclei-bridge"]
    put(home, make_card())
    assert model_zoo.names() == ["nuclei-bridge"]
    assert model_zoo.card("nuclei-bridge").path.is_relative_to(home.parent / "package")


def test_a_users_broken_card_leaves_packaged_models_alone(home):
    put(home.parent / "package", make_card())
    (home / "cards").mkdir(parents=True)
    (home / "cards" / "broken.yaml").write_text("name: [")
    assert model_zoo.card("nuclei-bridge").name == "nuclei-bridge"
    assert model_zoo.names() == ["nuclei-bridge"]
    assert model_zoo.get_config_file("nuclei-bridge") == model_zoo.get_config_file(CONFIG)
    with pytest.raises(CdlError, match=r"broken\.yaml"):
        model_zoo.card("another")


@pytest.mark.parametrize("config", ["/etc/hosts", "../cards/nuclei-bridge.yaml", "Base-small.yaml"])
def test_a_card_names_a_config_of_the_package_and_no_other_file(home, config):
    if config == "Base-small.yaml":  # there are several
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    path = put(home, make_card(config=config))
    with pytest.raises(CdlError, match=re.escape(str(path))):
        model_zoo.get_config("nuclei-bridge")


def test_an_unknown_name_gets_what_is_near(home):
    put(home, make_card())
    put(home, make_card("shapes"))
    with pytest.raises(CdlError, match=r"no model 'nuclei-brigde' .* there are nuclei-bridge$"):
        model_zoo.card("nuclei-brigde")
    with pytest.raises(CdlError, match=r"'nuclei-brigde' .*nuclei-bridge"):
        model_zoo.get_config_file("nuclei-brigde")


def test_a_zoo_without_cards_has_no_names(home):
    assert model_zoo.names() == []
    with pytest.raises(CdlError, match="there are none"):
        model_zoo.get_checkpoint_url("nuclei-bridge")


def test_a_models_config_is_found_by_its_name(home):
    put(home, make_card())
    assert model_zoo.get_config_file("nuclei-bridge") == model_zoo.get_config_file(CONFIG)
    put(home, make_card(config="detection/none.yaml"))
    with pytest.raises(CdlError, match=r"nuclei-bridge\.yaml: no config 'detection/none.yaml'"):
        model_zoo.get_config_file("nuclei-bridge")


def test_the_address_of_weights_is_that_of_the_card_or_their_path(home):
    put(home, make_card(url="https://example.org/x.safetensors"))
    put(home, make_card("mine"))
    put(home, make_card("packed", "package:packed.safetensors"))
    assert model_zoo.get_checkpoint_url("nuclei-bridge") == "https://example.org/x.safetensors"
    assert model_zoo.get_checkpoint_url("mine") == str(home / "weights" / f"{SHA256}.safetensors")
    packaged = home.parent / "package" / "weights" / "packed.safetensors"
    assert model_zoo.get_checkpoint_url("packed") == str(packaged)
    for name in ("mine", "packed"):
        with pytest.raises(FileNotFoundError, match=f"the weights of {name}, is missing"):
            model_zoo.weights_file(name)


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[::-1]])
def test_packaged_weights_are_checked_too(home, content):
    put(home, make_card("packed", "package:packed.safetensors"))
    path = home.parent / "package" / "weights" / "packed.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert model_zoo.weights_file("packed") == path
    path.write_bytes(content)
    with pytest.raises(CdlError, match="corrupted"):
        model_zoo.weights_file("packed")


def test_a_config_with_a_cards_changes(home):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    put(home, make_card())
    assert model_zoo.get_config("nuclei-bridge").MODEL.CODEC.QUALITY == 1
    assert model_zoo.get_config(CONFIG).MODEL.CODEC.QUALITY == 2
    with pytest.raises(CdlError, match="is a config, which has no trained weights"):
        model_zoo.get_config(CONFIG, trained=True)
    path = put(home, make_card(overrides=("MODEL.NOTHING", 1)))
    with pytest.raises(CdlError, match=f"card {path}: .*NOTHING"):
        model_zoo.get_config("nuclei-bridge")
