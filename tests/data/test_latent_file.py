from dataclasses import replace

import pytest
import torch

from cdl_d2.data import load_latent, save_latent


def test_a_stored_latent_is_the_same_latent(codec, tmp_path):
    latent = codec.encode(torch.rand(3, 50, 70))
    save_latent(tmp_path / "a.safetensors", latent, codec.identity)
    stored = load_latent(tmp_path / "a.safetensors", codec.identity)
    assert torch.equal(stored.cells, latent.cells)
    assert stored.image_size == (50, 70) and stored.bits == latent.total_bits


def test_a_latent_of_another_meaning_is_refused_naming_both(codec, tmp_path):
    rounded = replace(codec.identity, meaning="rounded")
    save_latent(tmp_path / "a.safetensors", codec.encode(torch.rand(3, 64, 64)), rounded)
    with pytest.raises(ValueError, match=r"rounded latents.*decoded latents"):
        load_latent(tmp_path / "a.safetensors", codec.identity)


def test_a_missing_or_damaged_file_is_named(codec, tmp_path):
    with pytest.raises(FileNotFoundError, match="no latent file"):
        load_latent(tmp_path / "a.safetensors", codec.identity)
    (tmp_path / "a.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="is not a latent file"):
        load_latent(tmp_path / "a.safetensors", codec.identity)
