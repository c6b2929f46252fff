import shutil
from pathlib import Path

import pytest
import torch

from cdl_d2.codec import CodecChoice
from cdl_d2.codec.io.weights_file import save_weights
from tests.conftest import loud_network

NAME = "tiny-bmshj2018-hyperprior"


def test_equal_choices_share_a_codec_until_the_file_of_their_weights_changes(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, loud_network(NAME, seed=0), {})
    choice = CodecChoice(NAME, 1, weights=str(path))
    first = choice.load()
    assert CodecChoice(NAME, 1, weights=str(path)).load() is first
    save_weights(path, loud_network(NAME, seed=1), {})
    second = choice.load()
    assert second.identity != first.identity
    weight = loud_network(NAME, seed=1).g_a[0].weight
    assert torch.equal(second.network.g_a[0].weight, weight)


def test_the_keys_of_a_config_are_the_attributes_in_capitals():
    node = {"NAME": NAME, "QUALITY": 2, "METRIC": "mse", "WEIGHTS": "", "QUANTIZATION": "rounded"}
    assert CodecChoice.from_config(node) == CodecChoice(NAME, 2, quantization="rounded")


def test_a_choice_of_several_qualities_gives_a_codec_of_each(tmp_path):
    for quality in (1, 2):
        path = tmp_path / f"weights-{quality}.safetensors"
        save_weights(path, loud_network(NAME, seed=quality), {})
    weights = str(tmp_path / "weights-{quality}.safetensors")
    choice = CodecChoice(NAME, 2, weights=weights, qualities=[1, 2])  # as a config gives them
    high, low = choice.load_all()
    assert (high.identity.quality, low.identity.quality) == (2, 1)
    assert torch.equal(low.network.g_a[0].weight, loud_network(NAME, seed=1).g_a[0].weight)
    assert hash(choice) == hash(CodecChoice(NAME, 2, weights=weights, qualities=(1, 2)))
    assert CodecChoice(NAME, 2).load_all() == (CodecChoice(NAME, 2).load(),)


@pytest.mark.parametrize("qualities", [(0, 1), (2, 2)])
def test_a_quality_that_is_not_one_of_several_is_an_error(qualities):
    with pytest.raises(ValueError, match="quality 2 is not one of"):
        CodecChoice(NAME, 2, qualities=qualities)


@pytest.mark.parametrize("name", ["weights.pth", "weights-{quality}.pth.tar"])
def test_weights_beside_a_moved_model_are_found(tmp_path, name):
    original, moved = tmp_path / "codecs", tmp_path / "moved"
    original.mkdir(), moved.mkdir()
    for quality in (1, 2):
        (original / name.replace("{quality}", str(quality))).write_text(str(quality))
    choice = CodecChoice(NAME, 2, weights=str(original / name), qualities=(1, 2))
    choice.copy_weights(moved)
    assert choice.beside(moved) == choice  # the file that the choice names counts first
    shutil.rmtree(original)
    beside = choice.beside(moved)
    contents = [
        Path(beside.weights.replace("{quality}", str(quality))).read_text() for quality in (1, 2)
    ]
    assert contents == (["1", "2"] if "{quality}" in name else ["2", "2"])
    assert choice.beside(tmp_path) == choice


def test_a_codec_without_a_file_of_weights_has_nothing_to_copy(tmp_path):
    for weights in ("", "untrained"):
        choice = CodecChoice(NAME, 2, weights=weights)
        choice.copy_weights(tmp_path)
        assert choice.beside(tmp_path) == choice and not [*tmp_path.iterdir()]
