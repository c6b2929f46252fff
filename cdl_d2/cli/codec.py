"""`cdl codec`: compress images and decompress files; train and evaluate codecs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from cdl_d2.cli.codec_training import train
from cdl_d2.cli.options import CodecOptions, Device, Json, NotNegative
from cdl_d2.cli.output import advice, for_each, print_rows, report
from cdl_d2.errors import CdlError

RECOMPRESS = "`cdl codec decompress`, then `cdl codec compress`, with loss"

app = App(name="codec", help="Compress and decompress images; train and evaluate codecs.")
app.command(train)


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
    quality_report: bool = False,
    workers: NotNegative | None = None,
    device: Device = None,
) -> int:
    r"""Compress images to bitstream files, NAME.cdlz, and print their bits per pixel.

    ```
    cdl codec compress photos/*.jpg --output files \
        --codec tiny-bmshj2018-hyperprior --quality 2
    cdl codec compress photos --output files --for output/gate
    ```

    `--for MODEL` takes the codec and the channels of a trained model, and resizes (for a
    classifier, also crops) images as in its evaluation. With a selection of channels, each image
    gives two files: the base layer NAME.cdlz with the selected channels, which suffices for the
    task, and the enhancement layer NAME.enhancement.cdlz with the others. Decompression needs both.

    Each file is read back before it gets its name: a file whose symbols are not those of the
    encoder is an error.

    Args:
        images: Image files, or folders that are searched for images.
        for_: Trained model, in any form that `cdl predict` accepts.
        channels: Channels of the base layer, such as 0-31,40.
        base_only: Write only the base layer, with the channels selected by the model of `--for`.
        as_is: Neither resize nor crop images for the model of `--for`.
        output: Output folder. Default: the folder of each image.
        force: Replace existing files.
        quality_report: Reconstruct the images, and print their mean PSNR and MS-SSIM.
        workers: Processes of one thread each, with the same files as result; 0 to compress in this
            one. Default: one per core for many images on the CPU, else 0.
    """
    from cdl_d2.codec.coded_files import bitstream_paths, build_compressor
    from cdl_d2.codec.file_compressor import summarize
    from cdl_d2.device import usable_device

    if (codec is None) == (for_ is None):
        raise CdlError("give either --codec and --quality, or --for with a trained model")
    if for_ is not None and channels is not None:
        raise CdlError("--channels does not go with --for: its model chooses the channels")
    if for_ is None and (base_only or as_is):
        raise CdlError("--base-only and --as-is belong to --for")
    if base_only and quality_report:
        raise CdlError("--quality-report needs all channels: a base layer gives no image")
    device = usable_device(device)
    if workers and device != "cpu":
        raise CdlError(f"--workers are processes on the CPU, not on {device}: give --workers 0")
    with advice("add --force to replace it", FileExistsError):
        targets = bitstream_paths(images, output, force)
    measure = None
    if quality_report:
        from cdl_d2.metrics.image_quality import psnr_and_ms_ssim as measure
    if for_ is not None:
        from cdl_d2.prediction.bitstreams import compressor_for
        from cdl_d2.prediction.loading import load_model

        coder = compressor_for(load_model(for_, device), not base_only, as_is, measure)
    else:
        coder = build_compressor(codec.choice().load().on(device), channels, measure)
    if workers is None:
        workers = coder.default_workers(len(targets))
    results, compressed = coder.compress_all(targets, workers), []

    def write(path: Path) -> None:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        compressed.append(result)
        for removed in result.removed:
            report("cdl codec compress", f"{removed} is removed: its base layer was replaced")

    status = for_each(targets, write, "cdl codec compress")
    print(summarize(compressed))
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
    """Decompress bitstream files to PNG images.

    ```
    cdl codec decompress files/*.cdlz --output decoded
    ```

    Args:
        files: Bitstreams, with their enhancement layers in the same folder; or NAME.bin files of
            CompressAI's examples/codec.py.
        codec_weights: Weights file of the codec, in place of the published or packaged weights.
        output: Output folder. Default: the folder of each file.
        force: Replace existing files.
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
    """Print the headers of bitstream files.

    ```
    cdl codec info files/*.cdlz
    ```

    The column `latent models` says whether such models can read the file: not if the image was
    padded above or to the left by other than multiples of 16 pixels.

    Args:
        files: Bitstreams, including CompressAI's NAME.bin.
    """
    from cdl_d2.codec.coded_files import describe_bitstream

    rows: list[dict] = []
    status = for_each(files, lambda path: rows.append(describe_bitstream(path)), "cdl codec info")
    if rows:
        print_rows(rows, json)
    for row in rows:
        if row["latent models"] == "no":
            corner = f"{row['left']} pixels from the left and {row['top']} from the top"
            text = f"{row['file']}: latent models cannot read it, because the image begins {corner}"
            report("cdl codec info", f"{text} of the padded one, not multiples of 16: {RECOMPRESS}")
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
    r"""Measure bits per pixel, PSNR and MS-SSIM of codecs on a folder of images.

    ```
    cdl codec evaluate kodak --codec tiny-bmshj2018-hyperprior --quality 1 2
    cdl codec evaluate kodak --codec bmshj2018-hyperprior mbt2018 --quality 1 2 3 4 \
        --plot rate.png
    ```

    `bpp` is the size of the bitstreams with their headers, `estimated` the rate estimated by the
    entropy model, both per pixel of the original images; `coded` includes padding. Images that fail
    are left out, and the exit status is then 1.

    Args:
        images: Folder, searched recursively.
        codec: One or several names of codecs in CompressAI's zoo, or tiny-bmshj2018-hyperprior,
            which is packaged.
        quality: One or several qualities of each codec.
        metric: Training metric of the codec, mse or ms-ssim.
        codec_weights: Local weights file, in place of the published or packaged weights.
        per_image: Print a row per image as well.
        plot: PNG file for the rate-distortion curves of the averages, one per codec.
    """
    from cdl_d2.bench.rate_distortion import AVERAGE, evaluate_codec, plot_rate_distortion
    from cdl_d2.codec import CodecChoice
    from cdl_d2.device import usable_device

    if codec_weights and len(codec) * len(quality) > 1:
        raise CdlError("--codec-weights needs exactly one --codec and one --quality")
    if plot and not plot.parent.is_dir():
        raise FileNotFoundError(f"--plot {plot}: its folder does not exist")
    rows, failed = [], []

    def leave_out(error: str) -> None:
        failed.append(error)
        report("cdl codec evaluate", error)

    for name, level in product(codec, quality):
        loaded = CodecChoice(name, level, metric, codec_weights).load().on(usable_device(device))
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
    """Compress images with JPEG, HEVC or BPG and save the reconstructions, as a baseline.

    ```
    cdl codec conventional kodak --format jpeg --quality 10 --output kodak-jpeg
    cdl codec conventional kodak --format heif --rate 0.1 --output kodak-heif
    ```

    Reconstructions are PNG files with the names of the images, so that label maps and attribute
    tables still match. `rate.json` in the same folder holds the rate: `bpp` from the file sizes,
    `bpp_of_pictures` without the container (about 400 bytes of a HEIF file). The exit status is 1
    if an image failed.

    Args:
        images: Folder, searched recursively.
        format: JPEG, HEVC intra in HEIF (needs the extra `heif`), or BPG (needs the programs
            `bpgenc` and `bpgdec`).
        quality: 1 to 95 for jpeg, 0 to 100 for heif, the quantizer from 51 to 0 for bpg.
        rate: Target rate in bits per pixel, instead of a quality: the nearest quality is used.
        output: Folder for the reconstructions, which must be empty.
    """
    from cdl_d2.bench.conventional import FORMATS, Reconstructor, decoded_paths, nearest_quality

    if (quality is None) == (rate is None):
        raise CdlError("give either --quality or --rate")
    codec = FORMATS[format]
    codec.check(quality)
    targets = decoded_paths(images, output)
    if quality is None:
        quality = nearest_quality(codec, targets, rate)
    reconstructor = Reconstructor(codec, quality)
    status = for_each(
        targets, lambda path: reconstructor.write(path, targets[path]), "cdl codec conventional"
    )
    reconstructor.save(output)
    print(f"{format} of quality {quality}: {reconstructor.bpp:.3f} bits per pixel")
    return status
