import pytest
import torch
from torchvision.io import write_png

from cdl_d2.data import Plan, Variant
from cdl_d2.data.store.encoding import encode_shards
from cdl_d2.data.store.latent_store import close_store

VARIANTS = (Variant(), Variant(40, 60, flip=True))


@pytest.fixture
def photos(tmp_path):
    """Seven small images, one in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(7):
        pixels = torch.rand(3, 5, 6).repeat_interleave(10 + i, 1).repeat_interleave(12, 2)
        name = f"more/{i}.png" if i == 6 else f"{i}.png"
        write_png((pixels * 255).byte(), str(folder / name))
    return folder


@pytest.fixture
def plan(codec):
    names = (*(f"{i}.png" for i in range(6)), "more/6.png")
    return Plan(codec.identity, "arrays", VARIANTS, names, shard_size=3)


@pytest.fixture
def store_folder(photos, plan, codec, tmp_path):
    """A complete store of the photos."""
    folder = tmp_path / "store"
    plan.save(folder)
    assert all(not e.error for e in encode_shards(codec, plan, photos, folder, range(3), 0))
    close_store(folder, plan)
    return folder
