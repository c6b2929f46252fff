"""Trained models in a folder of their own, laid out for the Hugging Face Hub.

```
FOLDER/card.yaml           the model's card
FOLDER/model.safetensors   its weights
FOLDER/README.md           a model card to read
```
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.files import write_atomically, write_text
from cdl_d2.model_zoo.card import BESIDE, Card, read_card
from cdl_d2.model_zoo.catalog import local_weights

CARD_FILE, WEIGHTS_FILE = "card.yaml", "model.safetensors"
README = """---
library_name: cdl_d2
license: other
license_name: {licence}
tags: [{task}, compressed-latents]
---
# {name}

A model for `cdl_d2`, vision on compressed latents.

- input: {what}
- training data: {data} ({licence}), {date}
{metrics}

```python
from cdl_d2 import Predictor

prediction = Predictor.from_pretrained("{repository}")("image.cdlz")
```

Training:

```
{command}
```
"""


def save_model(card: Card, folder: Path, repository: str | None = None) -> None:
    """Write a model of the zoo to a folder of its own.

    Args:
        card: card of the model.
        folder: folder to write.
        repository: name for the example in README.md; default the folder.

    Raises:
        CdlError, OSError: if the weights are missing, or the folder holds another model.
    """
    weights = local_weights(card)
    if (folder / CARD_FILE).exists() and read_card(folder / CARD_FILE).name != card.name:
        raise CdlError(f"{folder} holds another model: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomically(folder / WEIGHTS_FILE) as temporary:
        shutil.copyfile(weights, temporary)
    values = {
        "name": card.name,
        "licence": card.data.licence,
        "task": card.task,
        "what": f"latents of {card.codec.name}, quality {card.codec.quality}"
        if card.codec
        else "images",
        "data": card.data.name,
        "date": card.date,
        "metrics": "\n".join(f"- {name}: {value}" for name, value in card.metrics.items()),
        "repository": repository or folder,
        "command": card.command.strip(),
    }
    beside = replace(card, weights=replace(card.weights, url=f"{BESIDE}{WEIGHTS_FILE}"))
    for name, text in (("README.md", README.format(**values)), (CARD_FILE, beside.to_yaml())):
        write_text(folder / name, text)


def read_model(folder_or_repository: str | Path) -> Card:
    """Read the card of a model in a folder, or on the Hub, whose weights are then downloaded.

    Raises:
        CdlError, FileNotFoundError: if there is no model, or its card cannot be used.
        MissingPackageError: for the Hub, if huggingface_hub is not installed.
    """
    folder = Path(folder_or_repository)
    if not folder.is_dir():
        with _hub() as hub:
            files = [CARD_FILE, WEIGHTS_FILE]
            repository = str(folder_or_repository)
            folder = Path(hub.snapshot_download(repository, allow_patterns=files))
    if not (folder / CARD_FILE).is_file():
        raise FileNotFoundError(
            f"{folder_or_repository} has no {CARD_FILE}: it holds no model of cdl_d2"
        )
    card = read_card(folder / CARD_FILE)
    if card.weights.url != f"{BESIDE}{WEIGHTS_FILE}":
        raise CdlError(f"{folder / CARD_FILE}: weights.url is not {BESIDE}{WEIGHTS_FILE}")
    return card


def push_model(card: Card, repository: str, private: bool = False) -> str:
    """Upload a model to the Hub; return its URL.

    Args:
        card: card of the model.
        repository: `USER/NAME`; created if there is none.
        private: make a new repository private.

    Raises:
        CdlError: if the upload fails.
        MissingPackageError: if huggingface_hub is not installed.
    """
    with _hub() as hub, tempfile.TemporaryDirectory() as folder:
        save_model(card, Path(folder), repository)
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))


@contextmanager
def _hub() -> Iterator:
    """Yield huggingface_hub, and raise CdlError for its errors."""
    with imports_of_extra("hub"):
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
    try:
        yield huggingface_hub
    except CdlError:
        raise
    except (HFValidationError, OSError) as error:
        raise CdlError(
            f"the Hugging Face Hub: {str(error).strip().splitlines()[0]} (a name is USER/NAME)"
        ) from error
