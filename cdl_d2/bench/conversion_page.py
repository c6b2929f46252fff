"""Report page of a conversion, and its curve of agreement against rate."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from cdl_d2.bench.curves import Point, rate_saving, tradeoff_figure
from cdl_d2.bench.html_page import embed_figure, figure_row, table_html, write_page
from cdl_d2.codec import Codec
from cdl_d2.conversion.comparison import ComparedConversion, LatentReader, PixelReader, Reader
from cdl_d2.conversion.outputs import ImageOutput, read_output
from cdl_d2.conversion.report import DECODED, KINDS, ORIGINALS, Report
from cdl_d2.errors import CdlError, imports_of_extra
from cdl_d2.files import write_atomically
from cdl_d2.prediction.drawing import THRESHOLD, draw_label_map, draw_lines, draw_objects

with imports_of_extra("report"):
    from matplotlib.figure import Figure

PAGE_FILE, CURVE_FILE = "report.html", "agreement.png"
EXAMPLES = 4  # images in a page
TOP_CLASSES = 3  # most probable classes in a picture
RATE = "bits/pixel"


def write_report(folder: Path, reports: Sequence[Report], pictures: Sequence[str] = ()) -> Path:
    """Write `report.html`, a page that needs no other file, and return its path.

    Args:
        folder: existing folder.
        reports: of conversions for one or several qualities of a codec.
        pictures: HTML of example images, as `draw_example` returns it.
    """
    parts = []
    for report in reports:
        table = report.table()
        rows = [[_cell(value) for value in row.values()] for row in table]
        parts += [
            f"<h2>{html.escape(report.codec)}</h2>",
            f"<p>{html.escape(report.summary())}</p>",
        ]
        parts.append(table_html(list(table[0]), rows))
    if len(reports) > 1:
        parts.append(embed_figure(rate_figure(reports), "agreement against rate"))
        parts.append(f"<p>{html.escape(describe_saving(reports))}</p>")
    if any(report.history for report in reports):
        parts.append("<h2>Distillation</h2>")
        parts.append(embed_figure(_history_figure(reports), "validation loss by iteration"))
    write_page(folder / PAGE_FILE, "Conversion to latent input", [*parts, *pictures])
    return folder / PAGE_FILE


def draw_examples(conversion: ComparedConversion, class_names: Sequence[str] = ()) -> list[str]:
    """Return HTML of the first images kept aside of a conversion that was compared."""
    networks = {name: network.cpu() for name, network in conversion.compared.items()}
    rgb, codec = conversion.teacher.cpu(), conversion.codec.on("cpu")
    return [
        draw_example(
            *(path.name, conversion.read(path), rgb, networks, codec), class_names=class_names
        )
        for path in conversion.kept_aside[:EXAMPLES]
    ]


def write_curve(folder: Path, reports: Sequence[Report]) -> Path:
    """Write `agreement.png`, the agreement against the rate of several qualities."""
    with write_atomically(folder / CURVE_FILE) as temporary:
        rate_figure(reports).savefig(temporary, format="png", dpi=80)
    return folder / CURVE_FILE


def rate_figure(reports: Sequence[Report]) -> Figure:
    """Plot the agreement of decoding and of the converted networks against bits per pixel."""
    return tradeoff_figure(_points(reports), RATE, KINDS[reports[0].kind])


def describe_saving(reports: Sequence[Report]) -> str:
    """Return a sentence about the Bjontegaard saving over decoding, or why none is."""
    kind, candidate = KINDS[reports[0].kind], reports[0].candidate
    if not all(isfinite(report.difference[report.kind]) for report in reports):
        return "There is no rate saving to state: nothing is compared."
    try:
        saving = rate_saving(_points(reports), DECODED, candidate, RATE, kind)
    except CdlError as error:
        return f"There is no rate saving to state: {error}"
    return f"At equal {kind}, the {candidate} saves {saving:.1f} % of the bits of {DECODED}."


def _points(reports: Sequence[Report]) -> list[Point]:
    kind = reports[0].kind
    return [
        Point(
            f"q{report.quality}",
            row.name,
            {RATE: row.bits_per_pixel, KINDS[kind]: row.agreement[kind]},
            1,
        )
        for report in reports
        for row in report.rows
        if row.name != ORIGINALS
    ]


@torch.no_grad()
def draw_example(
    title: str,
    image: torch.Tensor,
    rgb: PixelReader,
    networks: Mapping[str, LatentReader],
    codec: Codec,
    read: Reader = read_output,
    class_names: Sequence[str] = (),
) -> str:
    """Return HTML of an image, its reconstruction, and the outputs of all networks.

    Args:
        title: name of the image.
        image: 3 x H x W, uint8, resized and cropped as in evaluation, on the networks' device.
        rgb: RGB network, on the original image.
        networks: networks on latents by name.
        codec: codec of the latents, on the networks' device.
        read: function from an output and (H, W) of the image to an ImageOutput.
        class_names: names of the classes; their numbers if there are none.
    """
    size = (int(image.shape[1]), int(image.shape[2]))
    latent = codec.encode(image.float() / 255)
    decoded = torch.round(codec.decode(latent) * 255).byte().cpu()
    runs: dict[str, Callable[[], Any]] = {ORIGINALS: lambda: rgb.run([image])}
    runs |= {name: lambda network=network: network([latent]) for name, network in networks.items()}
    pictures = {
        "original": image.cpu(),
        f"reconstruction ({latent.bits_per_pixel:.3f} bits per pixel)": decoded,
    }
    for name, run in runs.items():
        pixels = image.cpu() if name == ORIGINALS else decoded
        pictures[name] = _draw(pixels, read(run(), size), class_names)
    arrays = {name: p.permute(1, 2, 0).contiguous().numpy() for name, p in pictures.items()}
    return figure_row(title, arrays)


def _draw(pixels: torch.Tensor, output: ImageOutput, class_names: Sequence[str]) -> torch.Tensor:
    """Draw an output on an image, 3 x H x W, uint8."""

    def name(label: int) -> str:
        return class_names[label] if label < len(class_names) else str(label)

    if output.label_map is not None:
        labels = output.label_map[None, None].float()
        label_map = torch.nn.functional.interpolate(labels, tuple(pixels.shape[1:]))[0, 0].int()
        pixels = draw_label_map(pixels, label_map)
    if output.detections is not None:
        kept = output.detections["scores"] >= THRESHOLD
        boxes, labels, scores = (output.detections[k][kept] for k in ("boxes", "labels", "scores"))
        texts = [
            f"{name(label)} {score:.0%}"
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ]
        masks = output.detections.get("masks")
        masks = None if masks is None else masks[kept]
        pixels = draw_objects(pixels, boxes, labels.tolist(), texts, masks)
    if output.logits is not None:
        probabilities = output.logits.softmax(0)
        best = probabilities.argsort(descending=True)[:TOP_CLASSES].tolist()
        pixels = draw_lines(pixels, [f"{name(i)} {float(probabilities[i]):.0%}" for i in best])
    return pixels


def _history_figure(reports: Sequence[Report]) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for report in reports:
        points = [(entry["iteration"], entry["loss"]) for entry in report.history]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", label=f"quality {report.quality}")
    axis.set(xlabel="iteration", ylabel="validation loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)
