"""Compress images to bitstream files, decompress them, and say what is in them.

Examples:
    python -m cdl_d2.codec compress --name tiny-bmshj2018-hyperprior --quality 2 photos/*.jpg \\
        --output compressed
    python -m cdl_d2.codec info compressed/*.cdlz
    python -m cdl_d2.codec decompress compressed/*.cdlz --output decoded

With --channels 0-31,40 an image becomes two files: NAME.cdlz with those channels, for a task that
needs no others, and NAME.rest.cdlz with the rest. Decompressing needs both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torchvision.io import write_png
from tqdm import tqdm

from cdl_d2.cli.command_line import exit_status
from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.architectures import METRICS
from cdl_d2.codec.bitstream.layers import channel_mask, compress_layers, decompress_layers
from cdl_d2.codec.bitstream.stream import REST_SUFFIX, SELECTED, SUFFIX, BitstreamError, rest_of
from cdl_d2.codec.image_files import read_image
from cdl_d2.codec.rate_distortion import average, rate_point
from cdl_d2.errors import CdlError
from cdl_d2.files import write_atomically

MOST_CHANNELS = 2**16


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    form = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": __doc__}
    parser = argparse.ArgumentParser(prog="python -m cdl_d2.codec", **form)
    commands = parser.add_subparsers(dest="command", required=True)
    compress = commands.add_parser("compress", help="images to bitstreams", **form)
    compress.add_argument("--name", required=True, help="as CompressAI names it, or tiny-...")
    compress.add_argument("--quality", type=int, required=True)
    compress.add_argument("--metric", default="mse", choices=METRICS)
    compress.add_argument("--channels", help="of a first layer, such as 0-31,40; see below")
    decompress = commands.add_parser("decompress", help="bitstreams to PNG images", **form)
    for command in (compress, decompress):
        command.add_argument("--weights", default="", help="the codec's weights, if not the zoo's")
        command.add_argument("--output", type=Path, help="folder; default beside each file")
        command.add_argument("--force", action="store_true", help="replace files that exist")
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    info = commands.add_parser("info", help="what the header of a bitstream says", **form)
    for command in (compress, decompress, info):
        command.add_argument("files", nargs="+", type=Path, metavar="FILES")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 if a file failed; the others are done all the same."""
    args = parse_arguments(arguments)
    try:
        if args.command == "info":
            return for_each(args.files, info, progress=False)
        targets = output_paths(args)
        if args.command == "decompress":
            return decompress(args, targets)
        return compress(args, targets)
    except (ValueError, OSError) as error:
        print(f"cdl_d2.codec: {error}", file=sys.stderr)
        return 1


def compress(args: argparse.Namespace, targets: dict[Path, Path]) -> int:
    codec = Codec.load(args.name, args.quality, args.metric, args.weights).on(args.device)
    if args.channels is not None:
        return compress_in_layers(args, codec, targets)
    points = []

    def one(path: Path) -> None:
        stream, point = rate_point(codec, path)
        stream.save(targets[path])
        rest_of(targets[path]).unlink(missing_ok=True)  # of what was replaced
        points.append(point)

    status = for_each(args.files, one)
    if points:
        mean = average(points)
        similarity = "" if mean.ms_ssim is None else f", MS-SSIM {mean.ms_ssim:.4f}"
        print(
            f"{len(points)} images: {mean.file_bpp:.3f} bits per pixel "
            f"(estimated {mean.estimated_bpp:.3f}), PSNR {mean.psnr:.2f} dB{similarity}"
        )
    return status


def compress_in_layers(args: argparse.Namespace, codec: Codec, targets: dict[Path, Path]) -> int:
    channels, bits, pixels = parse_channels(args.channels), [0, 0], 0
    channel_mask(codec.latent_channels, channels)  # an error now, not once for every file

    def one(path: Path) -> None:
        nonlocal pixels
        image = read_image(path).to(args.device).float() / 255
        layers = compress_layers(codec, image, channels)
        layers.rest.save(rest_of(targets[path]))
        layers.selected.save(targets[path])
        for i, layer in enumerate((layers.selected, layers.rest)):
            bits[i] += 8 * len(layer.to_bytes())
        pixels += image.shape[1] * image.shape[2]

    status = for_each(args.files, one)
    if pixels:
        print(
            f"{bits[0] / pixels:.3f} bits per pixel in the first layer, {len(channels)} of "
            f"{codec.latent_channels} channels; {bits[1] / pixels:.3f} in the second"
        )
    return status


def parse_channels(text: str) -> list[int]:
    """Channels from `0-31,40`.

    Raises:
        ValueError: for anything else.
    """
    channels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise CdlError(f"--channels {text!r} is not of the form 0-31,40")
        if dash and int(last) < int(first):
            raise CdlError(f"--channels {text!r}: {part} goes backwards")
        if int(last or first) >= MOST_CHANNELS:
            raise CdlError(f"--channels {text!r}: no codec has channel {last or first}")
        channels += range(int(first), int(last or first) + 1)
    return channels


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def decompress(args: argparse.Namespace, targets: dict[Path, Path]) -> int:
    codecs: dict[tuple[str, int, str], Codec] = {}

    def one(path: Path) -> None:
        stream = Bitstream.load(path)
        choice = stream.codec.name, stream.codec.quality, stream.codec.metric
        if choice not in codecs:
            codecs[choice] = Codec.load(*choice, args.weights).on(args.device)
        codec = codecs[choice]
        if stream.coding == SELECTED:
            beside = rest_of(path)
            rest = Bitstream.load(beside) if beside.is_file() else None
            try:
                latent = decompress_layers(codec, stream, rest)
            except BitstreamError as error:
                state = "beside it" if rest else "there is none beside it"
                raise BitstreamError(f"{path}: {error} (in {beside}; {state})") from error
        else:
            latent = codec.decompress(stream)
        image = codec.decode(latent.to(args.device))
        with write_atomically(targets[path]) as temporary:
            write_png(torch.round(image * 255).byte().cpu(), str(temporary))

    return for_each(targets, one)


def info(path: Path) -> None:
    stream = Bitstream.load(path)
    (height, width), (coded_height, coded_width) = stream.image_size, stream.coded_size
    bits, strings = 8 * path.stat().st_size, " + ".join(str(len(s)) for s in stream.strings)
    print(
        f"{path}: {stream.codec.name} quality {stream.codec.quality} ({stream.codec.metric}), "
        f"weights {stream.codec.weights}, {stream.coding} coding; "
        f"{width}x{height} pixels, coded as {coded_width}x{coded_height}; "
        f"{bits // 8} bytes with strings of {strings}: "
        f"{bits / (height * width):.3f} bits per pixel, "
        f"{bits / (coded_height * coded_width):.3f} per coded pixel"
    )


def for_each(files: Sequence[Path], action: Callable[[Path], None], progress: bool = True) -> int:
    """Do all files; report those that fail, and return 1 if there are any."""
    failures = 0
    for path in tqdm(files, unit="file", disable=not progress):
        try:
            action(path)
        except (ValueError, OSError) as error:
            failures += 1
            text = str(error) if str(path) in str(error) else f"{path}: {error}"
            tqdm.write(f"cdl_d2.codec: {text}", file=sys.stderr)
    return 1 if failures else 0


def output_paths(args: argparse.Namespace) -> dict[Path, Path]:
    """Where each file's result goes.

    Raises:
        FileExistsError: if a result would replace a file, and `--force` was not given.
        ValueError: if two results would have the same name.
    """
    suffix = SUFFIX if args.command == "compress" else ".png"
    files = args.files
    if args.command == "decompress":
        files = [path for path in files if not _goes_with(path, files)]
    named = [path for path in files if args.command == "compress" and path.stem.endswith(".rest")]
    if named:
        raise CdlError(f"{named[0]}: names that end in .rest are those of second layers")
    targets = {p: (args.output or p.parent) / f"{p.stem}{suffix}" for p in files}
    if len(set(targets.values())) < len(set(files)):
        raise CdlError("two of the files have the same name without suffix: do them separately")
    written = list(targets.values())
    if args.command == "compress":
        written += [rest_of(target) for target in written]
    existing = [target for target in written if target.exists()]
    if existing and not args.force:
        raise FileExistsError(f"{existing[0]} exists already: add --force to replace it")
    if args.output and args.output.exists() and not args.output.is_dir():
        raise NotADirectoryError(f"--output {args.output} is a file, not a folder")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    return targets


def _goes_with(path: Path, files: Sequence[Path]) -> bool:
    """Whether a file is the second layer of one of the files.

    Raises:
        ValueError: if it is one, and its first layer is not among them.
    """
    if not path.name.endswith(REST_SUFFIX):
        return False
    first = path.with_name(path.name.removesuffix(REST_SUFFIX) + SUFFIX)
    if first not in files:
        raise CdlError(f"{path} is a second layer: give the first one, {first}")
    return True


if __name__ == "__main__":
    sys.exit(exit_status("cdl_d2.codec", main))
