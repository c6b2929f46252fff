"""Compress images to bitstream files, decompress them, and say what is in them.

Examples:
    python -m cdl_d2.codec compress --name tiny-bmshj2018-hyperprior --quality 2 photos/*.jpg \\
        --output compressed
    python -m cdl_d2.codec info compressed/*.cdlz
    python -m cdl_d2.codec decompress compressed/*.cdlz --output decoded
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torchvision.io import write_png
from tqdm import tqdm

from cdl_d2.codec import Bitstream, Codec
from cdl_d2.codec.architectures import METRICS
from cdl_d2.codec.bitstream import SUFFIX
from cdl_d2.codec.rate_distortion import average, rate_point
from cdl_d2.files import write_atomically


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    form = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": __doc__}
    parser = argparse.ArgumentParser(prog="python -m cdl_d2.codec", **form)
    commands = parser.add_subparsers(dest="command", required=True)
    compress = commands.add_parser("compress", help="images to bitstreams", **form)
    compress.add_argument("--name", required=True, help="as CompressAI names it, or tiny-...")
    compress.add_argument("--quality", type=int, required=True)
    compress.add_argument("--metric", default="mse", choices=METRICS)
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
    points = []

    def one(path: Path) -> None:
        stream, point = rate_point(codec, path)
        stream.save(targets[path])
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


def decompress(args: argparse.Namespace, targets: dict[Path, Path]) -> int:
    codecs: dict[tuple[str, int, str], Codec] = {}

    def one(path: Path) -> None:
        stream = Bitstream.load(path)
        choice = stream.codec.name, stream.codec.quality, stream.codec.metric
        if choice not in codecs:
            codecs[choice] = Codec.load(*choice, args.weights).on(args.device)
        image = codecs[choice].decode(codecs[choice].decompress(stream).to(args.device))
        with write_atomically(targets[path]) as temporary:
            write_png(torch.round(image * 255).byte().cpu(), str(temporary))

    return for_each(args.files, one)


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
    targets = {p: (args.output or p.parent) / f"{p.stem}{suffix}" for p in args.files}
    if len(set(targets.values())) < len(set(args.files)):
        raise ValueError("two of the files have the same name without suffix: do them separately")
    existing = [target for target in targets.values() if target.exists()]
    if existing and not args.force:
        raise FileExistsError(f"{existing[0]} exists already: add --force to replace it")
    if args.output and args.output.exists() and not args.output.is_dir():
        raise NotADirectoryError(f"--output {args.output} is a file, not a folder")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    return targets


if __name__ == "__main__":
    sys.exit(main())
