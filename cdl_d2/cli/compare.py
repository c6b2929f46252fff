"""`cdl compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cdl_d2.cli.options import Json, Pair
from cdl_d2.cli.output import print_rows

RUN = Parameter(metavar="NAME FOLDER")


def compare(
    *,
    keys: Annotated[list[str], Parameter(consume_multiple=True)],
    point: Annotated[list[Pair], RUN],
    baseline: Annotated[list[Pair] | None, RUN] = None,
    plot: Annotated[Pair | None, Parameter(metavar="X Y")] = None,
    output: Path | None = None,
    saving: Annotated[list[Pair] | None, Parameter(metavar="REFERENCE CURVE")] = None,
    history: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    history_output: Path = Path("history.png"),
    json: Json = False,
) -> None:
    """Compare trainings: a table of what they report, and a plot of one value against another.

    ```
    cdl compare --keys classification/top1 rate/psnr \\
        --point frozen output/frozen-1 --point frozen output/frozen-2 \\
        --point "joint:task x 1" output/joint-1
    cdl compare --keys rate/kB --baseline "original images" output/pixel \\
        --point decoded:1 output/decoded-1 --point decoded:2 output/decoded-2 \\
        --point static:16 output/static-16 --point static:32 output/static-32 \\
        --plot rate/bpp sem_seg/mIoU --output rate.png --saving decoded static
    cdl compare --keys classification/top1 --point cresnet39 output/cresnet39_rsscn7 \\
        --history total_loss classification/loss --history-output losses.png
    ```

    A point is a training's output folder, or the mean of several (seeds) that are given under one
    name. Points named CURVE:NAME are joined by a line. Between two curves of the plot, X a rate and
    Y an accuracy, a Bjontegaard saving can be computed.

    Args:
        keys: Columns of the table, such as bbox/AP, sem_seg/mIoU or rate/bpp; of an evaluation on
            several data sets NAME/bbox/AP.
        point: Repeatable.
        baseline: A training without a rate: a line across the plot at its Y; repeatable.
        plot: Two keys.
        output: PNG file of the plot.
        saving: Print how much rate a curve of the plot saves at equal accuracy; repeatable.
        history: Draw these values of each training over its iterations, such as the losses of
            training and of validation (the latter every TEST.EVAL_PERIOD iterations).
        history_output: PNG file of that.
    """
    from cdl_d2.bench.curves import compare_trainings
    from cdl_d2.bench.history import draw_history

    rows, savings = compare_trainings(keys, point, baseline or [], plot, output, saving or [])
    if history:
        draw_history(point, history, history_output)
    print_rows(rows, json)
    for line in [] if json else savings:
        print(line)
