"""`cdl quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def quickstart(
    *,
    output: Path = Path("quickstart"),
    train: bool = False,
    backend: Literal["auto", "detectron2", "torchvision"] = "auto",
    seed: int = 0,
    iterations: int = 400,
    images: tuple[int, int] = (400, 60),
    size: int = 192,
    device: str = "cpu",
) -> None:
    """See the method work, in a minute, without any download; or train it, in ten.

    ```
    cdl quickstart
    cdl quickstart --train --backend torchvision --seed 1 --output quickstart-1
    ```

    Compresses a dozen microscopy images that come with the package, and finds the cell nuclei in
    them with two trained models: one sees what the codec decodes, the other the latents. Prints a
    table and writes report.html with pictures.

    With --train, draws sample data and trains a small Mask R-CNN on its images, the teacher. Shows
    the teacher what the built-in codec decoded, and its latents, through a bridge that is fitted
    and not trained. Then both train on, equally long and taught alike. Run again, it goes on where
    it stopped.

    Args:
        output: Folder.
        train: Train on two CPU cores, rather than use trained models; the options below are for it.
        backend: auto is Detectron2 if it can be imported, else torchvision.
        seed: Of data and training.
        iterations: Of the teacher's training, two images each; students train half as long.
        images: To train on, and to evaluate on.
        size: Pixels a side of an image.
        device: To train on.
    """
    if not train:
        from cdl_d2.bench.quickstart.first_look import first_look

        print(first_look(output))
        return
    from cdl_d2.bench.quickstart.commands import Task
    from cdl_d2.bench.quickstart.quickstart import quick_start
    from cdl_d2.data.datasets.synthetic import SHAPES
    from cdl_d2.device import usable_device

    task = Task(output, size, SHAPES, iterations, seed, usable_device(device))
    print(quick_start(task, backend, images))
