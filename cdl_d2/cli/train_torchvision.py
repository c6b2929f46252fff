"""`cdl train-torchvision`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cdl_d2.cli.options import CodecOptions
from cdl_d2.errors import CdlError
from cdl_d2.files import without_nan
from cdl_d2.tv.options import DetectorOptions, TrainingOptions, TransferOptions
from cdl_d2.tv.run import Run

EXAMPLES = """Train an RGB teacher and a latent student; evaluate the teacher on decoded images:

```
DATA="--train cells/train.json cells/train --val cells/val.json cells/val"
CODEC="--codec tiny-bmshj2018-hyperprior --quality 2"
cdl train-torchvision --model small --domain image $DATA \\
    --output output/teacher
cdl train-torchvision --model small $CODEC $DATA \\
    --teacher output/teacher/model_final.pth --output output/student
cdl train-torchvision --model small --domain reconstruction $CODEC $DATA \\
    --eval-only output/teacher/model_final.pth --output output/decoded
```

Distill the standard model from torchvision's own, on eight GPUs:

```
torchrun --nproc-per-node 8 tools/train_torchvision.py --teacher coco \\
    --codec bmshj2018-hyperprior --quality 4 --precision bfloat16 \\
    --train instances_train2017.json train2017 --workers 4 \\
    --val instances_val2017.json val2017 --output output/standard
```

`--resume` continues an interrupted run, with the result of an uninterrupted one. By default,
`small` trains at 256 pixels for 1,000 iterations of 2 images, `standard` at 640 to 800 pixels for
270,000 iterations of 16.
"""
app = App(name="train-torchvision", help_format="markdown", help_epilogue=EXAMPLES)
DATA = Parameter(metavar="ANNOTATIONS IMAGE_DIR")


def _group(name: str) -> Parameter:
    return Parameter(name="*", group=name, consume_multiple=True)


@app.default
def train_torchvision(
    *,
    val: Annotated[tuple[str, str], DATA],
    output: Path,
    train: Annotated[tuple[str, str] | None, DATA] = None,
    eval_only: Annotated[str | None, Parameter(metavar="CHECKPOINT")] = None,
    resume: bool = False,
    detector: Annotated[DetectorOptions | None, _group("Detector")] = None,
    codec: CodecOptions | None = None,
    qualities: Annotated[list[int] | None, Parameter(consume_multiple=True)] = None,
    transfer: Annotated[TransferOptions | None, _group("Distillation")] = None,
    training: Annotated[TrainingOptions | None, _group("Training")] = None,
) -> None:
    """Train or evaluate Mask or Faster R-CNN with torchvision alone, on data in COCO format.

    Args:
        val: Data set to evaluate on.
        output: Folder of checkpoints and results.
        train: Data set to train on; needed unless --eval-only.
        eval_only: Evaluate a detector of this command.
        resume: Continue from the output folder's checkpoint.
        qualities: All qualities that the detector reads, including --quality; each training image
            is encoded at a random one.
    """
    if output.is_file():
        raise CdlError(f"--output {output} is a file: give a folder")
    choice = codec and replace(codec.choice(), qualities=tuple(qualities or ()))
    if qualities and choice is None:
        raise CdlError("--qualities needs a codec: add --codec and --quality")
    run = Run(
        val,
        output,
        detector or DetectorOptions(),
        choice,
        transfer or TransferOptions(),
        training or TrainingOptions(),
    )
    if eval_only:
        results = run.evaluate_only(eval_only)
    elif train:
        results = run.train(train, resume)
    else:
        raise CdlError("nothing to train on: give --train ANNOTATIONS IMAGE_DIR, or --eval-only")
    if results:
        print(json.dumps(without_nan(results), indent=2))
