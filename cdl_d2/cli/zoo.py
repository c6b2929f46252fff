"""`cdl zoo`: trained models by name; their cards and weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.options import Json
from cdl_d2.cli.output import print_rows, report
from cdl_d2.errors import CdlError

app = App(name="zoo", help="Trained models: what there is, their weights, and new ones.")


@app.command(name="list")
def list_(*, json: Json = False) -> int:
    """Print the models that there are, of the package and of your own.

    ```
    cdl zoo list --json
    ```

    The last column says where the weights are: in the package, in the cache on this machine,
    remote, or missing. The cache, and your own cards, are in `~/.cache/cdl_d2`, or where the
    variable CDL_HOME says. A card that cannot be used is reported; the exit status is then 1.
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
        name: As `cdl zoo list` prints it.
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
    """Fetch the weights of models, to use them offline; what is here already is checked.

    ```
    cdl zoo download nuclei-bridge
    ```

    A download that was cut goes on where it ended. With the variable CDL_MIRROR, an address, files
    of the same names are fetched from there.

    Args:
        names: As `cdl zoo list` prints them.
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
        names: As `cdl zoo list` prints them; default all whose weights are here.
    """
    from cdl_d2.model_zoo.catalog import find_card, read_cards, weights_path, weights_state
    from cdl_d2.model_zoo.download import check_file

    cards = [find_card(name) for name in names or ()]
    for card in cards:
        if weights_state(card) in ("remote", "missing"):
            raise CdlError(f"the weights of {card.name} are not here: cdl zoo download {card.name}")
    here = cards or [
        c for c in read_cards()[0].values() if weights_state(c) in ("packaged", "cached")
    ]
    status = 0
    for card in here:
        try:
            check_file(weights_path(card), card.weights.bytes, card.weights.sha256)
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
    """Put a model that you trained into the zoo: a card, and packed weights.

    ```
    cdl zoo add output/bridge_mask_rcnn_small --name my-nuclei --data-name nuclei \\
        --config-file detection/small/bridge_mask_rcnn_small.yaml --classes nucleus
    cdl zoo add output/student/model_final.pth --name my-shapes --data-name shapes
    ```

    Codec, sizes and hashes, date, metrics and the changes of the config are found out. Files are
    written to `cards` and `weights` of the output folder; the card is a YAML file to be edited.

    Args:
        model: Output folder of a training; or a checkpoint of `cdl train-torchvision`.
        name: Of lower-case letters, digits, dots and dashes.
        data_name: What it was trained on.
        config_file: For Detectron2, the config of this package that it was trained with.
        classes: Names in the order of the outputs, where the training did not keep them.
        licence: Of the data.
        images: How many it was trained on.
        command: That trained it.
        seed: Of the training; default that of its config.
        url: Where you will put the weights, https; or package:FILE.safetensors, for a name of
            the file; default only this machine has them.
        results: Of an evaluation; default results.json beside the model.
        precision: Of large weights; int8 takes a quarter.
        output: Folder; default that of your own models, see `cdl zoo list --help`.
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
