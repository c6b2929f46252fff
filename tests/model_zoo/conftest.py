"""A zoo in a folder, and a server of its weights on this machine."""

import hashlib
from datetime import date
from pathlib import Path

import pytest

from cdl_d2.model_zoo.card import Card, CardCodec, CardData, CardWeights
from tests.web import file_answer, serving

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CONFIG = "detection/small/bridge_mask_rcnn_small.yaml"


def make_card(name: str = "nuclei-bridge", url: str | None = None, **changes) -> Card:
    weights = CardWeights(url, len(CONTENT), SHA256)
    codec = CardCodec("tiny-bmshj2018-hyperprior", 2, "mse", "0123456789012345")
    values = {
        "name": name,
        "task": "detection",
        "backend": "detectron2",
        "config": CONFIG,
        "classes": ("nucleus",),
        "codec": codec,
        "data": CardData("nuclei", "CC0", 300),
        "command": "cdl train one\ncdl train two\n",
        "metrics": {"box AP": 38.3, "bits per pixel": 0.251},
        "seed": 1,
        "date": date(2026, 11, 24),
        "weights": weights,
        "overrides": ("MODEL.CODEC.QUALITY", 1, "SOLVER.STEPS", [3, 4]),
    }
    return Card(**values | changes)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder of a user's own models; the package has none."""
    monkeypatch.setenv("CDL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CDL_MIRROR", raising=False)
    monkeypatch.setattr("cdl_d2.model_zoo.catalog.PACKAGED_CARDS", tmp_path / "package" / "cards")
    monkeypatch.setattr(
        "cdl_d2.model_zoo.catalog.PACKAGED_WEIGHTS", tmp_path / "package" / "weights"
    )
    return tmp_path / "home"


def put(folder: Path, card: Card) -> Path:
    """Write a card into a folder of cards."""
    (folder / "cards").mkdir(parents=True, exist_ok=True)
    path = folder / "cards" / f"{card.name}.yaml"
    path.write_text(card.to_yaml(), encoding="utf-8")
    return path


@pytest.fixture
def served(monkeypatch):
    """A server of weights, as an Answer that can be changed."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(file_answer(CONTENT)) as answer:
        yield answer
