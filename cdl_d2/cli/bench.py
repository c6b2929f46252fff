"""`cdl bench`: time, memory and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.options import (
    CodecOptions,
    ConfigFile,
    Device,
    Json,
    NotNegative,
    Overrides,
    Pair,
    Positive,
    load_config,
)
from cdl_d2.cli.output import print_rows
from cdl_d2.errors import CdlError

app = App(name="bench", help="Measure time, memory and sizes.")


@app.command
def model(
    *overrides: Overrides,
    config_file: ConfigFile,
    size: tuple[int, int] = (800, 1280),
    repeats: Positive = 5,
    detection_only: bool = False,
    json: Json = False,
) -> None:
    """Time encoding, decoding, detection and training steps, with peak memory, in one run.

    On a GPU if there is one, unless MODEL.DEVICE is given.

    ```
    cdl bench model --size 800 1280 --repeats 5 MODEL.TRANSFER.MASKS foreground \\
        --config-file detection/latent_mask_rcnn_R50_FPN.yaml
    ```

    Args:
        size: Height and width of the image in pixels.
        repeats: Measured repetitions; the median is printed.
        detection_only: Leave out training steps, which take most of the time.
    """
    if min(size) < 256:
        raise CdlError(f"--size {size[0]} {size[1]}: at least 256 pixels a side are needed")
    from cdl_d2.device import usable_device

    cfg = load_config(config_file, ("MODEL.DEVICE", usable_device(None), *overrides))
    from cdl_d2.bench.model import run_benchmark

    print_rows(run_benchmark(cfg, size, repeats, detection_only), json)


@app.command
def files(
    images: Path,
    /,
    *,
    run: Annotated[list[Pair], Parameter(metavar="NAME FOLDER")],
    count: Positive = 10,
    repeats: Positive = 3,
    threads: Positive = 1,
    device: Device = None,
    record: bool = False,
    json: Json = False,
) -> None:
    """Time trained models from an image to its file, and from the file to the result.

    ```
    cdl bench files city/val --count 10 \\
        --run decoded output/decoded --run static-32 output/static-32
    ```

    Each model codes what it looks at: all channels, the selected ones, or for a network on decoded
    images the whole image. Models are measured in turn, image by image.

    Args:
        images: Folder.
        run: Output folder of a training, and a name for it; repeatable.
        count: Images to take.
        repeats: Of each measurement.
        threads: Of PyTorch.
        record: Write the times into each training's results.json, for cdl compare --plot
            time/result_ms bbox/AP.
    """
    import torch

    from cdl_d2.bench.files import record_times, time_files
    from cdl_d2.bench.results import read_tables
    from cdl_d2.codec.io.image_files import find_images
    from cdl_d2.device import usable_device

    folders = dict(run)
    if len(folders) < len(run):
        raise CdlError(f"two runs have one name: {', '.join(name for name, _ in run)}")
    for folder in folders.values() if record else ():
        read_tables(folder)  # an error now, not after minutes
    torch.set_num_threads(threads)
    rows = time_files(folders, find_images(images)[:count], repeats, usable_device(device))
    print_rows(rows, json)
    if record:
        record_times(folders, rows)


@app.command
def predict(
    models: Annotated[list[str], Parameter(metavar="MODEL", consume_multiple=True)],
    /,
    *,
    streams: Path,
    count: Positive = 20,
    workers: Annotated[list[Positive] | None, Parameter(consume_multiple=True)] = None,
    runtime: Literal["eager", "compile", "onnxruntime"] = "eager",
    json: Json = False,
) -> None:
    """Time predictions from bitstreams, file to result, and where the time goes, on one core.

    ```
    cdl bench predict nuclei-bridge nuclei-pixel --streams coded --workers 1 2
    ```

    A model of pixels decodes. Models are measured in turn, image by image.

    Args:
        models: As `cdl predict` takes them.
        streams: Folder of bitstreams.
        count: Bitstreams to take.
        workers: Processes, for each number of which a whole stream of predictions is timed.
        runtime: Of the backbone.
    """
    import tempfile

    from cdl_d2.bench.predict import time_predictions
    from cdl_d2.bench.runtimes import with_runtime
    from cdl_d2.prediction import Predictor
    from cdl_d2.prediction.loading import load_model
    from cdl_d2.prediction.sources import find_sources

    paths = [*find_sources([str(streams)]).values()][:count]
    if workers and runtime != "eager":
        raise CdlError(f"--workers are other processes, which have no --runtime {runtime}")
    predictors = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, model in enumerate(models):
            place = Path(folder) / str(i)
            predictors[model] = Predictor(with_runtime(load_model(model, "cpu"), runtime, place))
        print_rows(time_predictions(predictors, paths, workers or []), json)


@app.command
def storage(
    *,
    codec: CodecOptions,
    images: Path,
    short_edge: NotNegative = 800,
    max_size: Positive = 1333,
    count: Positive = 20,
    repeats: Positive = 3,
    threads: Positive = 1,
    workers: NotNegative | None = None,
    json: Json = False,
) -> None:
    """Time all ways to get at latents, in one run: stores, bitstreams, encoding on the fly.

    ```
    cdl bench storage --images val2017 --codec bmshj2018-hyperprior --quality 4
    ```

    Args:
        images: Folder of images.
        short_edge: Size of the stored variant; 0 as it is.
        max_size: Of the longer side.
        count: Images to take.
        repeats: Of each measurement.
        threads: Of PyTorch, for all but the bulk encoder.
        workers: Processes of the bulk encoder; default one a core.
    """
    import torch

    from cdl_d2.bench.storage import time_everything
    from cdl_d2.data import Variant

    torch.set_num_threads(threads)
    variant = Variant(short_edge, max_size)
    print_rows(
        time_everything(codec.choice().load(), images, variant, count, repeats, workers), json
    )
