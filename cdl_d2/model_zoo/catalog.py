"""Which cards there are, and where the weights that they name lie on this machine."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from cdl_d2.errors import CdlError
from cdl_d2.model_zoo.card import Card, read_card
from cdl_d2.model_zoo.card_keys import BESIDE, PACKAGED
from cdl_d2.model_zoo.download import check_file, download

PACKAGED_CARDS = Path(__file__).parent / "cards"
PACKAGED_WEIGHTS = Path(__file__).parent / "weights"
HOME = "CDL_HOME"
DEFAULT_HOME = "~/.cache/cdl_d2"


class UnknownModelError(CdlError):
    """No model of the zoo has this name."""


def home() -> Path:
    """The folder of this user's own cards, `cards`, and of downloaded weights, `weights`."""
    return Path(os.environ.get(HOME) or DEFAULT_HOME).expanduser()


def all_cards() -> dict[str, Card]:
    """The cards of the package and of this user by name, in the order of their names.

    Raises:
        CdlError: see read_card; if two have one name.
    """
    cards: dict[str, Card] = {}
    for folder in (PACKAGED_CARDS, home() / "cards"):
        for path in sorted(folder.glob("*.yaml")):
            card = read_card(path)
            if card.name in cards:
                raise CdlError(
                    f"{path} and {cards[card.name].path} are both of a model {card.name}: rename "
                    "or remove one"
                )
            cards[card.name] = card
    return dict(sorted(cards.items()))


def find_card(name: str) -> Card:
    """A model's card.

    Raises:
        CdlError: see all_cards; if there is none, with names that are near.
    """
    packaged = PACKAGED_CARDS / f"{name}.yaml"
    if packaged.is_file():  # whatever is wrong with cards of this user
        return read_card(packaged)
    cards = all_cards()
    if name not in cards:
        near = get_close_matches(name, cards) or list(cards)
        raise UnknownModelError(
            f"no model {name!r} is in the zoo; there are {', '.join(near) or 'none'}"
        )
    return cards[name]


def place_of(card: Card) -> Path:
    """Where a card's weights lie on this machine, or would lie."""
    weights, url = card.weights, card.weights.url or ""
    if url.startswith(PACKAGED):
        return PACKAGED_WEIGHTS / url.removeprefix(PACKAGED)
    if url.startswith(BESIDE):
        return card.path.parent / url.removeprefix(BESIDE)
    return home() / "weights" / f"{weights.sha256}.safetensors"


def where(card: Card) -> str:
    """Where a card's weights are: `packaged`, `cached` on this machine, `remote` or `missing`."""
    inside = (card.weights.url or "").startswith((PACKAGED, BESIDE))
    if place_of(card).is_file():
        return "packaged" if inside else "cached"
    return "missing" if inside or card.weights.url is None else "remote"


def local_weights(card: Card) -> Path:
    """The file of a card's weights, downloaded if it is not here, and checked.

    Raises:
        FileNotFoundError: if it is not here and cannot be had.
        CdlError: if its size or hash are not those of the card; see download.
    """
    path, weights = place_of(card), card.weights
    if where(card) == "missing":
        raise FileNotFoundError(
            f"{path}, the weights of {card.name}, is missing, and {card.path} names no address"
        )
    if where(card) == "remote":
        download(weights.url, weights.bytes, weights.sha256, path)
    check_file(path, weights.bytes, weights.sha256)
    return path
