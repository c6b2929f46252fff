"""`cdl bench`: time, memory and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.options import (
    NO_DATASETS,
    CodecOptions,
    Datasets,
    Device,
    Inputs,
    Json,
    Model,
    NotNegative,
    Overrides,
    Positive,
    find_lazy_model,
    is_named_or_converted,
    load_config,
)
from cdl_d2.cli.output import print_rows
from cdl_d2.errors import CdlError

Against = Annotated[
    list[str] | None,
    Parameter(metavar="MODEL", help="Another model, measured in turn with the first; repeatable."),
]
app = App(name="bench", help="Measure time, memory and sizes.")


@app.command
def model(
    model: Model,
    /,
    *overrides: Overrides,
    size: tuple[int, int] | None = None,
    repeats: Positive = 5,
    detection_only: bool = False,
    release_memory: bool = False,
    json: Json = False,
) -> None:
    r"""Time encoding, decoding, detection and training steps, with peak memory, in one run.

    On a GPU if there is one, unless MODEL.DEVICE is given.

    ```
    cdl bench model detection/latent_mask_rcnn_R50_FPN.yaml --size 800 1280 \
        MODEL.TRANSFER.MASKS foreground
    ```

    Args:
        size: Height and width of the image in pixels; default 800 1280, or that of the crops of a
            network of torchvision or timm.
        repeats: Measured repetitions; the median is printed.
        detection_only: Leave out training steps, which take most of the time; they are not measured
            of a LazyConfig.
        release_memory: On a CPU, give freed memory back to the system at once; trainings keep it
            for the next tensors.
    """
    from cdl_d2.device import usable_device
    from cdl_d2.memory import keep_freed_memory

    device = usable_device(None)
    if not release_memory and device == "cpu":
        keep_freed_memory()
    if is_named_or_converted(model, overrides):
        import torch

        from cdl_d2.bench.model import time_parts
        from cdl_d2.bench.networks import network_parts

        parts = network_parts(model, size, device)
        print_rows(time_parts(parts, torch.device(device), repeats), json)
        return
    size = size or (800, 1280)
    if min(size) < 256:
        raise CdlError(f"--size {size[0]} {size[1]}: at least 256 pixels per side are needed")
    if lazy := find_lazy_model(model, overrides):
        import torch

        from cdl_d2.bench.model import time_parts
        from cdl_d2.d2.applications.measured_parts import measured_lazy_parts

        parts = measured_lazy_parts(lazy, size, device)
        print_rows(time_parts(parts, torch.device(device), repeats), json)
        return
    cfg = load_config(model, ("MODEL.DEVICE", device, *overrides))
    from cdl_d2.bench.model import run_benchmark

    print_rows(run_benchmark(cfg, size, repeats, detection_only), json)


@app.command
def files(
    model: Model,
    /,
    *inputs: Inputs,
    against: Against = None,
    count: Positive = 10,
    repeats: Positive = 3,
    threads: Positive = 1,
    device: Device = None,
    record: bool = False,
    json: Json = False,
) -> None:
    """Time trained models from an image to its file, and from the file to the result.

    ```
    cdl bench files output/static-32 city/val --against output/decoded --count 10
    ```

    Each file has what its model reads: all channels or the selected ones. Models are measured in
    turn, image by image.

    Args:
        count: Number of images.
        repeats: Repetitions of each measurement.
        threads: Threads of PyTorch.
        record: Write the times into each training's results.json, for cdl compare --plot
            time/result_ms bbox/AP.
    """
    import torch

    from cdl_d2.bench.files import record_times, time_files
    from cdl_d2.bench.results import read_tables
    from cdl_d2.prediction.loading import load_model
    from cdl_d2.prediction.sources import find_image_files

    names = [model, *(against or ())]
    for name in names if record else ():
        read_tables(name)  # raises before minutes of measuring
    torch.set_num_threads(threads)
    images = find_image_files(inputs)[:count]
    rows = time_files({name: load_model(name, device) for name in names}, images, repeats)
    print_rows(rows, json)
    if record:
        record_times(rows)


@app.command
def predict(
    model: Model,
    /,
    *inputs: Inputs,
    against: Against = None,
    count: Positive = 20,
    workers: Annotated[list[Positive] | None, Parameter(consume_multiple=True)] = None,
    runtime: Literal["eager", "compile", "onnxruntime"] = "eager",
    device: str = "cpu",
    precision: Literal["float32", "bfloat16"] = "float32",
    json: Json = False,
) -> None:
    """Time predictions from bitstreams, per stage and in total, and find what bounds them.

    ```
    cdl bench predict nuclei-bridge coded --against nuclei-pixel --workers 1 2
    ```

    An RGB model decodes the image. Models are measured in turn, image by image, with one thread.
    The column `workers` is the number of processes that read files fast enough for one network.

    Args:
        count: Number of bitstreams.
        workers: Numbers of processes for which a whole stream of predictions is timed.
        runtime: Runtime of the backbone.
        device: Device of the networks, cpu or cuda; files are read on the CPU.
        precision: Type in which the backbone, or a network without one, computes.
    """
    import tempfile

    from cdl_d2.bench.predict import time_predictions
    from cdl_d2.bench.runtimes import with_runtime
    from cdl_d2.prediction import Predictor
    from cdl_d2.prediction.loading import load_model
    from cdl_d2.prediction.sources import find_sources

    paths = [*find_sources(inputs).values()][:count]
    if runtime != "eager" and (device, precision) != ("cpu", "float32"):
        raise CdlError(f"--runtime {runtime} is for the CPU, in float32")
    if workers and runtime != "eager":
        raise CdlError(f"--workers are other processes, which have no --runtime {runtime}")
    predictors = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate([model, *(against or ())]):
            exported = Path(folder) / str(i)
            loaded = load_model(name, device, precision=precision)
            predictors[name] = Predictor(with_runtime(loaded, runtime, exported))
        print_rows(time_predictions(predictors, paths, workers or []), json)


@app.command
def training(
    model: Model,
    /,
    *overrides: Overrides,
    rgb_model: str | None = None,
    count: Positive = 64,
    workers: NotNegative = 0,
    datasets: Datasets = NO_DATASETS,
    json: Json = False,
) -> None:
    r"""Measure training from image files, a latent store and bitstreams, and what bounds it.

    ```
    cdl bench training classification/small/latent_resnet_small.yaml \
        --rgb-model classification/small/pixel_resnet_small.yaml \
        --register-classes train scenes/train MODEL.META_ARCHITECTURE CompressedClassifier
    ```

    Images are encoded into temporary stores first. `reading` and `network` are milliseconds per
    image of each alone. A student with a teacher reads images beside latents.

    Args:
        rgb_model: Config of an RGB model to compare with; overrides are those of both.
        count: Number of images, the first of DATASETS.TRAIN.
        workers: Processes that read; 0 for none beside this one.
    """
    from cdl_d2.d2.applications.training_throughput import time_training

    cfg = load_config(model, overrides, datasets)
    rgb_cfg = load_config(rgb_model, overrides) if rgb_model else None
    print_rows(time_training(cfg, rgb_cfg, count, workers), json)


@app.command
def storage(
    *inputs: Inputs,
    codec: CodecOptions,
    short_edge: NotNegative = 800,
    max_size: Positive = 1333,
    count: Positive = 20,
    repeats: Positive = 3,
    threads: Positive = 1,
    workers: NotNegative | None = None,
    json: Json = False,
) -> None:
    """Time all sources of latents in one run: stores, bitstreams, encoding on the fly.

    ```
    cdl bench storage val2017 --codec bmshj2018-hyperprior --quality 4
    ```

    Args:
        short_edge: Short edge of the stored images in pixels; 0 to keep their size.
        max_size: Limit of the longer side in pixels.
        count: Number of images.
        repeats: Repetitions of each measurement.
        threads: Threads of PyTorch, for all but the bulk encoder.
        workers: Processes of the bulk encoder; default one per core.
    """
    import torch

    from cdl_d2.bench.storage import time_access
    from cdl_d2.data import Variant
    from cdl_d2.prediction.sources import find_image_files

    torch.set_num_threads(threads)
    variant = Variant(short_edge, max_size)
    images = find_image_files(inputs)[:count]
    rows = time_access(codec.choice().load(), images, variant, repeats, workers)
    print_rows(rows, json)


@app.command
def startup(model: Model, input: Path, /, *, repeats: Positive = 3, json: Json = False) -> None:
    """Measure processor time of new processes, up to a first prediction.

    ```
    cdl bench startup nuclei-bridge coded/cell.cdlz
    ```

    Args:
        input: Image or bitstream.
        repeats: Processes of each kind; the fastest counts.
    """
    from cdl_d2.bench.startup import time_startup

    print_rows(time_startup(model, str(input), repeats), json)
