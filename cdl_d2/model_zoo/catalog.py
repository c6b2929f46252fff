"""Which cards there are, and where the weights that they name lie on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


def home() -> Path:
    """The folder of this user's own cards, `cards`, and of downloaded weights, `weights`."""
    return Path(os.environ.get(HOME) or DEFAULT_HOME).expanduser()


def read_cards() -> tuple[dict[str, Card], list[str]]:
    """The cards of the package and of this user by name, in the order of their names; and what is
    wrong with cards that cannot be used, such as one with the name of another.

    A card of the package goes before one of this user.
    """
    cards: dict[str, Card] = {}
    broken: list[str] = []
    for folder in (PACKAGED_CARDS, home() / "cards"):
        for path in sorted(folder.glob("*.yaml")):
            try:
                card = read_card(path)
            except (CdlError, OSError) as error:
                broken.append(str(error))
                continue
            if card.name in cards:
                broken.append(
                    f"card {path}: {cards[card.name].path} is of a model {card.name}, too; rename "
                    "or remove one"
                )
            else:
                cards[card.name] = card
    return dict(sorted(cards.items())), broken


def find_card(name: str, others: Sequence[str] = ()) -> Card:
    """A model's card.

    Args:
        others: names of what would do as well.

    Raises:
        CdlError: if there is none, with names that are near and cards that cannot be used.
    """
    cards, broken = read_cards()
    if name in cards:
        return cards[name]
    known = [*others, *cards]
    near = ", ".join(get_close_matches(name, known) or known) or "none"
    raise CdlError("; ".join([f"no model {name!r} is in the zoo: there are {near}", *broken]))


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
