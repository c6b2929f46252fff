import dataclasses

import pytest
import torch

from cdl_d2.data.store.record import pack_latent, unpack_latent


@pytest.mark.parametrize("scale", [0, 1, 20, 200, 60_000, 0.3])
def test_latents_of_any_range_are_packed_without_loss(scale):
    cells = torch.arange(-6, 6).reshape(2, 2, 3).float() * scale
    assert torch.equal(unpack_latent(pack_latent(cells, (32, 48), 1.0)), cells)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_every_integer_is_packed_without_loss(dtype):
    limits = torch.iinfo(dtype)
    cells = torch.arange(limits.min, limits.max + 1).float().view(-1, 1, 1)
    record = pack_latent(cells, (16, 16), 1.0)
    assert record.dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(unpack_latent(record), cells)


def test_a_corrupted_record_is_an_error():
    record = pack_latent(torch.arange(12.0).reshape(2, 2, 3), (32, 48), 1.0)
    for content in (record.content[:-4], b"no zstd", record.content[:5] + b"\0" * 20):
        with pytest.raises(ValueError, match="corrupted"):
            unpack_latent(dataclasses.replace(record, content=content))
    with pytest.raises(ValueError, match="bytes"):
        unpack_latent(dataclasses.replace(record, image_size=(160, 160)))
    longer = pack_latent(torch.full((2, 2, 3), 7.0), (32, 48), 1.0)  # with more escapes
    with pytest.raises(ValueError, match="corrupted"):
        unpack_latent(
            dataclasses.replace(record, content=record.content[:-20] + longer.content[-22:])
        )
