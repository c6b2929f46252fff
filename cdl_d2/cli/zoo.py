"""`cdl zoo`: trained models by name; their cards and weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.options import Json
from cdl_d2.cli.output import print_rows, report
from cdl_d2.errors import CdlError

app = App(name="zoo", help="Trained models by name: list, download, verify and add them.")


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """List the models of the package and your own.

    ```
    cdl zoo list --json
    ```

    The last column is the state of the weights: in the package, in the cache on this machine,
    remote, or missing. The cache and your own cards are in `~/.cache/cdl_d2`, or in the folder of
    the variable CDL_HOME. A card that cannot be used is reported; the exit status is then 1.
    """
    from cdl_d2.model_zoo.catalog import home, read_cards, weights_state

    cards, broken = read_cards()
    for error in broken:
        report("cdl zoo list", error)
    rows = []
    for card in cards.values():
        metrics = card.metrics
        rows.append(
            {
                "name": card.name,
                "task": card.task,
                "backend": card.backend,
                "codec": f"{card.codec.name} {card.codec.quality}" if card.codec else None,
                "metrics": metrics if json else ", ".join(f"{k} {v}" for k, v in metrics.items()),
                "MB": round(card.weights.bytes / 1e6, 2),
                "where": weights_state(card),
            }
        )
    if rows or json:
        print_rows(rows, json)
    else:
        print(f"no models: none comes with this package, and none is in {home() / 'cards'}")
    return 1 if broken else 0


@app.command
def show(name: str, /, *, json: Json = False) -> None:
    """Print a model's card.

    ```
    cdl zoo show nuclei-bridge
    ```

    Args:
        name: Name of the model.
    """
    import json as json_format

    from cdl_d2.model_zoo.catalog import find_card, weights_path, weights_state

    card = find_card(name)
    if json:
        print(json_format.dumps(asdict(card) | {"where": weights_state(card)}, default=str))
        return
    print(f"# {card.path}\n# weights {weights_state(card)}: {weights_path(card)}")
    print(card.path.read_text(encoding="utf-8").rstrip())


@app.command
def download(names: list[str], /) -> None:
    """Download the weights of models, to use them offline; check those that are there already.

    ```
    cdl zoo download nuclei-bridge
    ```

    With the variable CDL_MIRROR, the URL of a mirror, files of the same names are downloaded from
    there.

    Args:
        names: Names of models.
    """
    from cdl_d2.model_zoo.catalog import find_card, local_weights

    for card in [find_card(name) for name in names]:
        print(f"{card.name}: {local_weights(card)}")


@app.command
def verify(names: list[str] | None = None, /) -> int:
    """Check the weights on this machine against the sizes and hashes in their cards.

    ```
    cdl zoo verify nuclei-bridge
    ```

    Args:
        names: Names of models; default all whose weights are on this machine.
    """
    from cdl_d2.files import check_content
    from cdl_d2.model_zoo.catalog import find_card, read_cards, weights_path, weights_state

    cards = [find_card(name) for name in names or ()]
    for card in cards:
        if weights_state(card) in ("remote", "missing"):
            raise CdlError(
                f"the weights of {card.name} are not on this machine: cdl zoo download {card.name}"
            )
    local = cards or [
        c for c in read_cards()[0].values() if weights_state(c) in ("packaged", "cached")
    ]
    status = 0
    for card in local:
        try:
            check_content(weights_path(card), card.weights.sha256, card.weights.bytes)
            print(f"{card.name}: as its card says")
        except (CdlError, OSError) as error:
            status = 1
            report("cdl zoo verify", f"{card.name}: {error}")
    return status


@app.command
def add(
    model: Path,
    /,
    *,
    name: str,
    data_name: str,
    config_file: str | None = None,
    classes: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    licence: str = "unknown",
    images: int | None = None,
    command: str = "",
    seed: int | None = None,
    url: str | None = None,
    results: Path | None = None,
    precision: Literal["int8", "float32"] = "int8",
    output: Path | None = None,
) -> None:
    r"""Add a model that you trained to the zoo: write its card and packed weights.

    ```
    cdl zoo add output/bridge_mask_rcnn_small --name my-nuclei --data-name nuclei \
        --config-file detection/small/bridge_mask_rcnn_small.yaml --classes nucleus
    cdl zoo add output/student/model_final.pth --name my-shapes --data-name shapes
    ```

    Codec, sizes, hashes, date, metrics and changes of the config are filled in. The files go to
    `cards` and `weights` of the output folder; the card is a YAML file that you can edit.

    Args:
        model: Output folder of a training, or a checkpoint of `cdl train-torchvision`.
        name: Name of the model: lower-case letters, digits, dots and dashes.
        data_name: Name of the training data.
        config_file: For Detectron2, the packaged config that the model was trained with.
        classes: Class names in the order of the outputs, if the training did not keep them.
        licence: Licence of the data.
        images: Number of training images.
        command: Command of the training.
        seed: Seed of the training; default that of its config.
        url: URL to which you will upload the weights, https; or package:FILE.safetensors, for a
            file name; default the weights stay on this machine.
        results: Results of an evaluation; default results.json beside the model.
        precision: Precision of large weights; int8 takes a quarter of the space.
        output: Folder; default that of your own models.
    """
    from cdl_d2.model_zoo.card import CardData
    from cdl_d2.model_zoo.catalog import home
    from cdl_d2.model_zoo.packing import Addition

    card = Addition(
        model,
        name,
        output or home(),
        CardData(data_name, licence, images),
        config_file,
        tuple(classes) if classes else None,
        command,
        seed,
        url,
        precision,
        results,
    ).write()
    print(f"{card.path}: {card.name}, {card.weights.bytes / 1e6:.2f} MB of weights")
