from dataclasses import replace

import pytest
import torch

from cdl_d2.codec import CodecIdentity
from cdl_d2.nn import CodecStamp

OURS = CodecIdentity("mbt2018-mean", 4, "mse", "dequantized", "0123456789abcdef")
OTHER = replace(OURS, quality=2, weights="f" * 16)
RATES = tuple(replace(OURS, name="mbt2018-mean-vbr", quality=quality) for quality in range(1, 9))


@pytest.mark.parametrize("identities", [(), (OURS,), (OURS, OTHER), RATES], ids=len)
def test_a_stamp_names_every_codec_that_it_was_given_in_the_same_room(identities):
    stamp = CodecStamp(*identities)
    assert stamp.identities == identities
    assert stamp.stamp.shape == CodecStamp().stamp.shape  # checkpointers compare shapes
    adopting = CodecStamp()
    adopting.load_state_dict(stamp.state_dict())
    assert adopting.identities == identities


def test_eight_codecs_of_one_rate_each_have_room_whatever_they_are_called():
    longest = CodecIdentity("tiny-bmshj2018-hyperprior", 1, "ms-ssim", "dequantized", "")
    several = [replace(longest, quality=q, weights=f"{q}" * 16) for q in range(1, 9)]
    assert CodecStamp(*several).identities == tuple(several)
    with pytest.raises(ValueError, match="too many"):
        CodecStamp(*(replace(identity, name="x" * 80) for identity in several))


def test_a_network_of_several_qualities_loads_for_some_of_them_and_for_no_other():
    state = CodecStamp(OURS, OTHER).state_dict()
    for fed in ((OURS,), (OTHER,), (OTHER, OURS)):
        stamp = CodecStamp(*fed)
        stamp.load_state_dict(state)
        assert stamp.identities == fed
    for fed in ((replace(OURS, quality=3),), (OURS, OTHER, replace(OURS, quality=3))):
        with pytest.raises(ValueError, match=r"quality 4 .* quality 2 .* quality 3"):
            CodecStamp(*fed).load_state_dict(state)
    with pytest.raises(ValueError, match="this model is for"):
        CodecStamp(OURS, OTHER).load_state_dict(CodecStamp(OURS).state_dict())


def test_a_stamp_of_one_codec_is_what_it_was_before_there_were_several(codec):
    """Checkpoints of earlier versions are read: JSON of the identity, with spaces, in 256 bytes."""
    text = (
        '{"name": "tiny-bmshj2018-hyperprior", "quality": 2, "metric": "mse", '
        f'"quantization": "dequantized", "weights": "{codec.identity.weights}"}}'
    )
    stored = torch.tensor(list(text.encode().ljust(256)), dtype=torch.uint8)
    assert torch.equal(CodecStamp(codec.identity).stamp, stored)
