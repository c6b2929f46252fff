#!/usr/bin/env python
"""See the method work, in under ten minutes on two CPU cores, without any download.

Draws sample data, trains a small Mask R-CNN on its images (the teacher) and two on the latents of
the built-in codec, one of them taught; prints a table and writes report.html with pictures. Uses
Detectron2 if it can be imported, else torchvision. Run again, it goes on where it stopped.

Examples:
    python tools/quickstart.py
    python tools/quickstart.py --engine torchvision --seed 1 --output quickstart-1
"""

import argparse
import json
import sys
import time
from pathlib import Path

from cdl_d2.cli.command_line import exit_status, needed_packages, usable_device

with needed_packages("quickstart"):
    from tqdm import tqdm

    from cdl_d2.bench.quickstart.engines import CODEC, ENGINES, Task, choose_engine
    from cdl_d2.bench.quickstart.measure import measure_costs
    from cdl_d2.bench.quickstart.report import as_text, table_rows, write_report
    from cdl_d2.bench.quickstart.runs import run_all
    from cdl_d2.codec import Codec
    from cdl_d2.data.datasets.drawn import SHAPES, write_detection
    from cdl_d2.files import write_json


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("quickstart"), help="folder (default: quickstart)")
    add("--engine", default="auto", choices=("auto", *ENGINES))
    add("--seed", type=int, default=0, help="of data and training")
    add("--iterations", type=int, default=800, help="of each training, two images each")
    add("--images", type=int, nargs=2, default=(400, 60), metavar=("TRAIN", "VAL"))
    add("--size", type=int, default=192, help="pixels a side of an image")
    add("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    args, start = parse_arguments(), time.monotonic()
    usable_device(args.device)
    if args.iterations < 1 or min(args.images) < 1 or args.size < 64 or args.seed < 0:
        raise ValueError(
            f"--iterations {args.iterations} --images {args.images} --size {args.size} --seed "
            f"{args.seed}: at least 1, 1 1, 64 and 0 are needed"
        )
    engine = choose_engine(args.engine)
    print(f"training with {engine.name}")
    task = Task(args.output, args.size, SHAPES, args.iterations, args.seed, args.device)
    claim_folder(args, engine.name)
    for part, count, seed in (("train", args.images[0], 2), ("val", args.images[1], 1)):
        folder = args.output / "data" / part
        drawn = len(list((folder / "images").glob("*.png")))
        if drawn < count or not (folder / "annotations.json").exists():
            files = write_detection(folder, count, (args.size,) * 2, 2 * args.seed + seed)
            for _ in tqdm(files, desc=f"draw {part}", total=count + 1, unit="file"):
                pass
    run_all(engine, task)
    codec = Codec.load(*CODEC)
    images = sorted(Path(task.data("val")[1]).iterdir())[:20]
    detectors = (engine.load(args.output / run).cpu() for run in ("teacher", "latent_transfer"))
    rows = table_rows(task, *measure_costs(engine, codec, *detectors, images))
    minutes = (time.monotonic() - start) / 60
    report = write_report(task, codec, rows, engine.name, minutes, min(4, args.images[1]))
    print(f"\n{as_text(rows)}\n\nwritten: {report}, after {minutes:.1f} minutes")


def claim_folder(args: argparse.Namespace, engine: str) -> None:
    """Make the output folder, or find one of the same settings."""
    settings = {
        "engine": engine,
        "seed": args.seed,
        "iterations": args.iterations,
        "images": list(args.images),
        "size": args.size,
    }
    path = args.output / "settings.json"
    if path.exists():
        try:
            theirs = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is damaged: delete the folder, or use another") from error
        if theirs != settings:
            raise ValueError(
                f"{args.output} holds a quick start with {theirs}: use another --output"
            )
    elif args.output.exists() and (args.output.is_file() or any(args.output.iterdir())):
        raise ValueError(f"{args.output} is not an empty folder: use another --output")
    else:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)


if __name__ == "__main__":
    sys.exit(exit_status("quickstart", main))
