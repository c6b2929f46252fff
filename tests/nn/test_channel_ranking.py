import json
from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import CodecIdentity
from cdl_d2.nn.selection.channel_ranking import ChannelRanking

CODEC = CodecIdentity("tiny-bmshj2018-hyperprior", 2, "mse", "dequantized", "0123")


def ranking(*scores):
    return ChannelRanking.from_scores(torch.tensor(scores), "variance", CODEC)


def test_channels_are_ordered_by_score_and_of_equal_ones_by_index():
    assert ranking(1.0, 5.0, 3.0, 5.0).channels == (1, 3, 2, 0)
    assert ranking(1.0, 5.0, 3.0, 5.0).top_channels(3) == [1, 2, 3]
    assert ranking(2.0, 2.0, 2.0).top_channels(2) == [0, 1]


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_that_there_are_no_channels_for_is_named(count):
    with pytest.raises(ValueError, match=f"{count} channels cannot be kept"):
        ranking(1.0, 2.0, 3.0).top_channels(count)


def test_a_file_gives_what_was_saved_for_its_codec_alone(tmp_path):
    path = tmp_path / "new" / "selection.json"
    ranking(1.0, 5.0, 3.0).save(path)
    assert ChannelRanking.load(path, CODEC) == ranking(1.0, 5.0, 3.0)
    with pytest.raises(ValueError, match="quality 1"):
        ChannelRanking.load(path, replace(CODEC, quality=1))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        ChannelRanking.load(tmp_path / "nowhere.json", CODEC)


@pytest.mark.parametrize(
    "change",
    [
        *({"channels": [0, 0, 1]}, {"channels": [1, 2, 3]}, {"channels": ["a"]}),
        *({"channels": 3}, {"codec": {"name": "x"}}, {"codec": None}, None, [], "{"),
    ],
)
def test_what_is_no_selection_is_one_error_that_names_the_file(tmp_path, change):
    path = tmp_path / "selection.json"
    ranking(1.0, 5.0, 3.0).save(path)
    content = json.loads(path.read_text())
    if isinstance(change, dict):
        change = content | change
    path.write_text(change if isinstance(change, str) else json.dumps(change))
    with pytest.raises(ValueError, match=r"selection\.json"):
        ChannelRanking.load(path, CODEC)
