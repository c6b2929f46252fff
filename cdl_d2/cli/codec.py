"""`cdl codec`: compress images and decompress files; train and evaluate codecs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.options import CodecOptions, Device, Json, NotNegative, Positive
from cdl_d2.cli.output import advice, for_each, print_rows, report
from cdl_d2.errors import CdlError

app = App(name="codec", help="Compress and decompress images; train and evaluate codecs.")


@app.command
def compress(
    images: list[Path],
    /,
    *,
    codec: CodecOptions | None = None,
    for_: Annotated[str | None, Parameter(name="--for", metavar="MODEL")] = None,
    channels: str | None = None,
    base_only: bool = False,
    as_is: bool = False,
    output: Path | None = None,
    force: bool = False,
    device: Device = None,
) -> int:
    """Compress images to bitstream files, NAME.cdlz.

    ```
    cdl codec compress photos/*.jpg --output files \\
        --codec tiny-bmshj2018-hyperprior --quality 2
    cdl codec compress photos --output files --for output/gate
    ```

    With `--for` the codec and the channels are those that a trained model looks at, and images are
    resized, and for a classifier cropped, as in its evaluation. With a choice of channels an image
    becomes two files: the base layer NAME.cdlz with these, which is enough for a task, and the
    enhancement layer NAME.enhancement.cdlz with the others. Decompressing needs both.

    Args:
        images: Files; or folders, for all images under them.
        for_: Trained model, as `cdl predict` takes it.
        channels: Channels of the base layer, such as 0-31,40.
        base_only: Write only the base layer, with the channels that the model of `--for` reads.
        as_is: Neither resize nor crop images for the model of `--for`.
        output: Folder; default beside each image.
        force: Replace files that exist.
    """
    from cdl_d2.codec.coded_files import bitstream_paths, build_compressor
    from cdl_d2.device import usable_device

    if (codec is None) == (for_ is None):
        raise CdlError("give either --codec and --quality, or --for with a trained model")
    if for_ is not None and channels is not None:
        raise CdlError("--channels does not go with --for: its model chooses the channels")
    if for_ is None and (base_only or as_is):
        raise CdlError("--base-only and --as-is belong to --for")
    with advice("add --force to replace it", FileExistsError):
        targets = bitstream_paths(images, output, force)
    if for_ is not None:
        from cdl_d2.prediction.bitstreams import compressor_for
        from cdl_d2.prediction.loading import load_model

        coder = compressor_for(load_model(for_, device), not base_only, as_is)
    else:
        coder = build_compressor(codec.choice().load().on(usable_device(device)), channels)

    def write(path: Path) -> None:
        for removed in coder.compress(path, targets[path]):
            report("cdl codec compress", f"{removed} is removed: its base layer was replaced")

    status = for_each(targets, write, "cdl codec compress")
    print(coder.summary())
    return status


@app.command
def decompress(
    files: list[Path],
    /,
    *,
    codec_weights: str = "",
    output: Path | None = None,
    force: bool = False,
    device: Device = None,
) -> int:
    """Make PNG images of bitstream files.

    ```
    cdl codec decompress files/*.cdlz --output decoded
    ```

    Args:
        files: Bitstreams, with their enhancement layers beside them; or files of CompressAI's
            examples/codec.py, NAME.bin.
        codec_weights: The codec's weights, if not the zoo's or the package's.
        output: Folder; default beside each file.
        force: Replace files that exist.
    """
    from cdl_d2.codec.coded_files import decompress_file, picture_paths
    from cdl_d2.device import usable_device

    device = usable_device(device)
    with advice("add --force to replace it", FileExistsError):
        targets = picture_paths(files, output, force)

    def write(path: Path) -> None:
        decompress_file(path, targets[path], codec_weights, device)

    return for_each(targets, write, "cdl codec decompress")


@app.command
def info(files: list[Path], /, *, json: Json = False) -> int:
    """Say what the headers of bitstream files say.

    ```
    cdl codec info files/*.cdlz
    ```

    Args:
        files: Bitstreams, also CompressAI's, NAME.bin.
    """
    from cdl_d2.codec.coded_files import describe_bitstream

    rows: list[dict] = []
    status = for_each(files, lambda path: rows.append(describe_bitstream(path)), "cdl codec info")
    if rows:
        print_rows(rows, json)
    return status


@app.command
def evaluate(
    images: Path,
    /,
    *,
    codec: Annotated[list[str], Parameter(consume_multiple=True)],
    quality: Annotated[list[int], Parameter(consume_multiple=True)],
    metric: str = "mse",
    codec_weights: str = "",
    device: Device = None,
    per_image: bool = False,
    plot: Path | None = None,
    json: Json = False,
) -> int:
    """Bits per pixel, PSNR and MS-SSIM of a codec on a folder of images.

    ```
    cdl codec evaluate kodak --codec tiny-bmshj2018-hyperprior --quality 1 2
    cdl codec evaluate kodak --codec bmshj2018-hyperprior mbt2018 --quality 1 2 3 4 \\
        --plot rate.png
    ```

    `bpp` counts the bits of the bitstreams with their headers, `estimated` what the entropy model
    predicts, both over the pixels of the images; `coded` stands for those with padding. The exit
    status is 1 if an image failed, which is left out.

    Args:
        images: Folder, searched recursively.
        codec: As CompressAI names it, or tiny-bmshj2018-hyperprior, which is built in; one or
            several.
        quality: One or several, of each codec.
        metric: What the codec was trained for, mse or ms-ssim.
        codec_weights: A local file, not the zoo's or the package's.
        per_image: Print a row for each image as well.
        plot: PNG file of the averages, a curve for each codec.
    """
    from cdl_d2.bench.rate_distortion import AVERAGE, evaluate_codec, plot_rate_distortion
    from cdl_d2.codec import CodecChoice
    from cdl_d2.device import usable_device

    if codec_weights and len(codec) * len(quality) > 1:
        raise CdlError("--codec-weights are of one codec and quality: give one of each")
    if plot and not plot.parent.is_dir():
        raise FileNotFoundError(f"--plot {plot}: there is no folder for it")
    rows, failed = [], []

    def leave_out(error: str) -> None:
        failed.append(error)
        report("cdl codec evaluate", error)

    for name, each in product(codec, quality):
        loaded = CodecChoice(name, each, metric, codec_weights).load().on(usable_device(device))
        rows += evaluate_codec(loaded, images, per_image, leave_out)
    print_rows(rows, json)
    if plot:
        from cdl_d2.files import write_atomically

        with write_atomically(plot) as temporary:
            means = [row for row in rows if row["image"] == AVERAGE]
            plot_rate_distortion(means).savefig(temporary, format="png", dpi=80)
    return 1 if failed else 0


@app.command
def conventional(
    images: Path,
    /,
    *,
    format: Literal["jpeg", "heif", "bpg"],
    quality: int | None = None,
    rate: float | None = None,
    output: Path,
) -> int:
    """Make images as they look after a conventional codec, to train and evaluate networks on.

    ```
    cdl codec conventional kodak --format jpeg --quality 10 --output kodak-jpeg
    cdl codec conventional kodak --format heif --rate 0.1 --output kodak-heif
    ```

    The decoded images are PNG files of the same names, so that label maps and tables of attributes
    go with them. `rate.json` beside them says what the files would cost: `bpp` by their sizes,
    `bpp_of_pictures` without the container, about 400 bytes of a HEIF file. The exit status is 1 if
    an image failed.

    Args:
        images: Folder, searched recursively.
        format: JPEG, HEVC intra in HEIF (needs the extra `heif`), or BPG (needs its programs
            `bpgenc` and `bpgdec`).
        quality: 1 to 95 for jpeg, 0 to 100 for heif, the quantizer, 51 to 0, for bpg.
        rate: Instead, the quality at which the folder comes nearest to so many bits per pixel.
        output: Folder for the decoded images, which must be empty.
    """
    from cdl_d2.bench.conventional import FORMATS, Recoding, decoded_paths, nearest_quality

    if (quality is None) == (rate is None):
        raise CdlError("give either --quality or --rate")
    codec = FORMATS[format]
    codec.check(quality)
    targets = decoded_paths(images, output)
    if quality is None:
        quality = nearest_quality(codec, targets, rate)
    coded = Recoding(codec, quality)
    status = for_each(
        targets, lambda path: coded.write(path, targets[path]), "cdl codec conventional"
    )
    coded.save(output)
    print(f"{format} of quality {quality}: {coded.bpp:.3f} bits per pixel")
    return status


@app.command
def train(
    images: Path,
    /,
    *,
    codec: str,
    quality: int,
    lmbda: float,
    iterations: int,
    output: Path,
    metric: str = "mse",
    batch_size: int = 8,
    patch_size: int = 192,
    learning_rate: float = 1e-3,
    seed: NotNegative = 0,
    initial_weights: Path | None = None,
    device: Device = None,
    workers: NotNegative = 0,
    threads: Positive | None = None,
    checkpoint_every: Positive = 500,
    resume: bool = False,
) -> None:
    """Train a codec of any architecture on a folder of photographs.

    ```
    cdl codec train photos --output output/tiny-2 --quality 2 \\
        --codec tiny-bmshj2018-hyperprior --lmbda 0.0130 --iterations 9000
    ```

    Args:
        images: Folder, searched recursively.
        codec: The architecture, as CompressAI names it, or tiny- before that.
        quality: That the weights stand for.
        lmbda: Weight of the distortion against bits per pixel.
        iterations: Steps.
        output: Folder for checkpoint, metrics and weights.
        metric: The distortion, mse or ms-ssim.
        batch_size: Crops a step.
        patch_size: Pixels a side of a crop, a multiple of 64.
        learning_rate: At the start.
        seed: Of weights and crops.
        initial_weights: Start from these, say of another quality.
        workers: Processes that load images.
        threads: Of the training on a CPU.
        checkpoint_every: Iterations between checkpoints.
        resume: Go on from the checkpoint in the output folder.
    """
    import torch

    from cdl_d2.codec.learning.training import CodecTraining, train_codec
    from cdl_d2.device import usable_device

    if threads:
        torch.set_num_threads(threads)
    path = train_codec(
        CodecTraining(
            codec,
            quality,
            metric,
            lmbda,
            iterations,
            batch_size=batch_size,
            patch_size=patch_size,
            learning_rate=learning_rate,
            seed=seed,
        ),
        images,
        output,
        initial_weights=initial_weights,
        device=usable_device(device),
        resume=resume,
        checkpoint_every=checkpoint_every,
        workers=workers,
    )
    print(f"weights: {path} ({path.stat().st_size / 1e6:.2f} MB)")
