"""The cards of the package and of the user, and the location of their weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit

from cdl_d2.download import download_file
from cdl_d2.errors import CdlError
from cdl_d2.files import check_content
from cdl_d2.model_zoo.card import BESIDE, PACKAGED, Card, read_card

PACKAGED_CARDS = Path(__file__).parent / "cards"
PACKAGED_WEIGHTS = Path(__file__).parent / "weights"
HOME = "CDL_HOME"
DEFAULT_HOME = "~/.cache/cdl_d2"
MIRROR = "CDL_MIRROR"
ADVICE = (
    f"try again with a network, set {MIRROR} to a mirror, or copy the file into the cache by hand "
    "(docs/tutorials/zoo.md)"
)


def home() -> Path:
    """Return the folder of the user's own cards, `cards`, and of downloaded `weights`."""
    return Path(os.environ.get(HOME) or DEFAULT_HOME).expanduser()


def read_cards() -> tuple[dict[str, Card], list[str]]:
    """Read the cards of the package and of the user.

    Returns:
        the cards by name, in alphabetical order, a packaged one before the user's of that name; and
        the errors of those that cannot be used.
    """
    cards: dict[str, Card] = {}
    errors: list[str] = []
    for path in [path for folder in _folders() for path in sorted(folder.glob("*.yaml"))]:
        try:
            card = read_card(path)
        except (CdlError, OSError) as error:
            errors.append(str(error))
            continue
        if cards.setdefault(card.name, card) is not card:
            errors.append(
                f"card {path}: {cards[card.name].path} is of a model {card.name}, too; rename or "
                "remove one"
            )
    return dict(sorted(cards.items())), errors


def _folders() -> tuple[Path, Path]:
    return PACKAGED_CARDS, home() / "cards"


def find_card(name: str, alternatives: Sequence[str] = ()) -> Card:
    """Return the card of a model.

    Args:
        name: name of the model.
        alternatives: other names to suggest.

    Raises:
        CdlError: if there is none, with similar names and the errors of unusable cards.
    """
    for folder in _folders():  # usually all it takes
        with suppress(ValueError, OSError):
            card = read_card(folder / f"{name}.yaml")
            if card.name == name:
                return card
    cards, errors = read_cards()
    if name in cards:
        return cards[name]
    names = [*alternatives, *cards]
    near = ", ".join(get_close_matches(name, names) or names) or "none"
    raise CdlError("; ".join([f"no model {name!r} is in the zoo: there are {near}", *errors]))


def weights_path(card: Card) -> Path:
    """Return the path of a card's weights on this machine, whether they are there or not."""
    weights, url = card.weights, card.weights.url or ""
    if url.startswith(PACKAGED):
        return PACKAGED_WEIGHTS / url.removeprefix(PACKAGED)
    if url.startswith(BESIDE):
        return card.path.parent / url.removeprefix(BESIDE)
    return home() / "weights" / f"{weights.sha256}.safetensors"


def weights_state(card: Card) -> str:
    """Return the state of a card's weights: `packaged`, `cached`, `remote` or `missing`."""
    inside = (card.weights.url or "").startswith((PACKAGED, BESIDE))
    if weights_path(card).is_file():
        return "packaged" if inside else "cached"
    return "missing" if inside or card.weights.url is None else "remote"


def local_weights(card: Card) -> Path:
    """Return the checked file of a card's weights; download it if it is not on this machine.

    Raises:
        FileNotFoundError: if it cannot be downloaded.
        CdlError: if its size or hash are not those of the card.
    """
    path, weights = weights_path(card), card.weights
    if weights_state(card) == "missing":
        raise FileNotFoundError(
            f"{path}, the weights of {card.name}, is missing, and {card.path} names no address"
        )
    if weights_state(card) == "remote":
        download(weights.url, weights.bytes, weights.sha256, path)
    check_content(path, weights.sha256, weights.bytes)
    return path


def download(url: str, size: int, sha256: str, path: Path) -> None:
    """Download a file with download_file; with CDL_MIRROR set, from there under the same name.

    Raises:
        FileNotFoundError, CdlError: as download_file.
        OSError: if the folder cannot be written to.
    """
    if mirror := os.environ.get(MIRROR):
        url = f"{mirror.rstrip('/')}/{urlsplit(url).path.rsplit('/', 1)[-1]}"
    try:
        download_file(url, path, sha256, size, advice=ADVICE)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            f"{path.parent} cannot be written to ({error.strerror}): set CDL_HOME to another folder"
        ) from error
