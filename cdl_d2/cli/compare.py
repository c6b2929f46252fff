"""`cdl compare`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import Json, Pair
from cdl_d2.cli.output import print_rows

NAMED_MODEL = Parameter(metavar="[NAME=]MODEL")


def compare(
    *models: Annotated[str, NAMED_MODEL],
    keys: Annotated[list[str], Parameter(consume_multiple=True)],
    baseline: Annotated[list[str] | None, NAMED_MODEL] = None,
    plot: Annotated[Pair | None, Parameter(metavar="X Y")] = None,
    output: Path | None = None,
    saving: Annotated[list[Pair] | None, Parameter(metavar="REFERENCE CURVE")] = None,
    history: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    history_output: Path = Path("history.png"),
    json: Json = False,
) -> None:
    r"""Compare trained models: a table of their results, and a plot of one value against another.

    ```
    cdl compare frozen=output/frozen-1 frozen=output/frozen-2 \
        "joint:task x 1=output/joint-1" --keys classification/top1 rate/psnr
    cdl compare decoded:1=output/decoded-1 decoded:2=output/decoded-2 \
        static:16=output/static-16 static:32=output/static-32 --keys rate/kB \
        --baseline "original images=output/pixel" \
        --plot rate/bpp sem_seg/mIoU --output rate.png --saving decoded static
    cdl compare output/cresnet39_rsscn7 --keys classification/top1 \
        --history total_loss classification/loss --history-output losses.png
    ```

    Each point is a model, or the mean of several (seeds) that have one name, with a bar from the
    least to the greatest of them. Points named CURVE:NAME are joined by a line. Between two curves
    of the plot, X a rate and Y an accuracy, a Bjontegaard saving can be computed.

    Args:
        models: Output folder of a training, or a name of `cdl zoo list`; NAME defaults to the last
            part of MODEL if only one MODEL has it, else to MODEL.
        keys: Columns of the table, such as bbox/AP, sem_seg/mIoU or rate/bpp; for an evaluation on
            several data sets NAME/bbox/AP.
        baseline: A model without a rate: a line across the plot at its Y; repeatable.
        plot: Two keys.
        output: PNG file of the plot.
        saving: Print how much rate a curve of the plot saves at equal accuracy; repeatable.
        history: Draw these values of each training over its iterations, such as the losses of
            training and of validation (the latter every TEST.EVAL_PERIOD iterations).
        history_output: PNG file of that drawing.
    """
    from cdl_d2.bench.curves import compare_trainings, draw_history
    from cdl_d2.errors import CdlError

    if not models:
        raise CdlError("there are no models: give them before --keys, which takes many words")
    points, baselines = _split_names(models), _split_names(baseline or ())
    rows, savings = compare_trainings(keys, points, baselines, plot, output, saving or [])
    if history:
        draw_history(points, history, history_output)
    print_rows(rows, json)
    for line in [] if json else savings:
        print(line)


def _split_names(models: Sequence[str]) -> list[Pair]:
    """Return the NAME and the MODEL of each [NAME=]MODEL.

    NAME defaults to the last part of MODEL, or to all of MODEL if several have this last part.
    """
    last_parts = Counter(Path(model).name for model in set(models))
    pairs = []
    for model in models:
        name, separator, path = model.partition("=")
        if separator and not Path(model).exists():
            pairs.append((name, path))
        else:
            last_part = Path(model).name
            pairs.append((last_part if last_part and last_parts[last_part] == 1 else model, model))
    return pairs
