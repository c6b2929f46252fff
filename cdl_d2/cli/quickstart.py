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
    """Demonstrate the method on packaged data in a minute, or train it in ten.

    ```
    cdl quickstart
    cdl quickstart --train --backend torchvision --seed 1 --output quickstart-1
    ```

    Compresses a dozen microscopy images, detects cell nuclei in them with two packaged models, one
    on decoded images and one on latents, prints a table, and writes report.html with pictures.
    Nothing is downloaded.

    With --train, synthesizes images of shapes and trains a small RGB Mask R-CNN, the teacher. It is
    evaluated on decoded images, and on latents behind a bridge fitted in closed form; then both are
    fine-tuned equally long with distillation. Run again, it continues an interrupted run.

    Args:
        output: Output folder.
        train: Train on two CPU cores instead of using packaged models; the options below apply.
        backend: Library to train with; auto is Detectron2 if installed, else torchvision.
        seed: Seed of data and training.
        iterations: Iterations of the teacher, with two images each; the others get half.
        images: Numbers of training and of evaluation images.
        size: Side of the images in pixels.
        device: Device of the training.
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
