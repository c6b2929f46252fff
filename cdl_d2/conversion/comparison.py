"""Comparison of networks on latents with an RGB network on the originals, without labels."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from tqdm import tqdm

from cdl_d2.codec import Codec, Latent
from cdl_d2.conversion.outputs import ImageOutput, read_output
from cdl_d2.conversion.report import (
    CONFIDENT_SCORE,
    DECODED,
    ORIGINALS,
    Report,
    Row,
)
from cdl_d2.device import device_of, synchronize
from cdl_d2.errors import CdlError
from cdl_d2.metrics.agreement import (
    ClassAgreement,
    DetectionAgreement,
    LabelMapAgreement,
    MeanAgreement,
    interval,
    resample,
    share_interval,
)

Reader = Callable[[Any, tuple[int, int]], ImageOutput]


class PixelReader(Protocol):
    """An RGB network, such as an ImageNetwork."""

    def run(self, images: Sequence[torch.Tensor]) -> Any:
        """Return the output for images, 3 x H x W, uint8."""


class LatentReader(Protocol):
    """A network on latents, such as a LatentNetwork or a DecodedNetwork."""

    def __call__(self, latents: Sequence[Latent]) -> Any:
        """Return the output for latents."""


class ComparedConversion(Protocol):
    """A conversion with its report, and what pictures of it need.

    Attributes:
        teacher: the RGB network.
        codec: codec of the latents.
        kept_aside: files of the report.
        compared: networks of the report by name.
        report: the report.
    """

    teacher: Any
    codec: Codec
    kept_aside: Sequence[Path]
    compared: Mapping[str, Any]
    report: Report | None

    def read(self, file: Path) -> torch.Tensor:
        """Return an image, 3 x H x W, uint8, resized and cropped as in evaluation."""


def compare(
    rgb: PixelReader,
    networks: Mapping[str, LatentReader],
    files: Sequence[Path],
    load: Callable[[Path], torch.Tensor],
    codec: Codec,
    read: Reader = read_output,
    history: Sequence[dict[str, float]] = (),
) -> Report:
    """Compare networks with an RGB network on the originals, image by image, in turns.

    Args:
        rgb: RGB network on the originals.
        networks: networks on latents by name, DECODED among them; the last one is the candidate.
        files: files of images.
        load: function from a file to an image, 3 x H x W, uint8, resized and cropped as in
            evaluation.
        codec: codec of the latents, on any device.
        read: function from an output and (H, W) of the image to an ImageOutput.
        history: validation losses of the distillation, for the report.

    Raises:
        CdlError: for no image, or outputs that cannot be compared.
    """
    device = device_of(rgb) if isinstance(rgb, torch.nn.Module) else torch.device("cpu")
    run = _Comparison(rgb, networks, codec.on(device), device, read)
    for file in tqdm(files, desc="compare", unit="image"):
        run.add(load(file).to(device))
    if not run.rates:
        raise CdlError("there is no image to compare networks on")
    rows, differences, intervals = run.results()
    objects = run.agreements[ORIGINALS].get("AP")
    return Report(
        codec=str(codec.identity),
        quality=codec.identity.quality,
        images=len(run.rates),
        objects=objects and objects.object_count,
        threads=torch.get_num_threads(),
        device=str(device),
        rows=rows,
        candidate=list(networks)[-1],
        difference=differences,
        difference_intervals=intervals,
        history=list(history),
    )


class _Comparison:
    """Times and agreements of networks, over the images that were added.

    Attributes:
        agreements: for each network, the agreements of report.KINDS that apply.
        rates: estimated bits per pixel of each image.
    """

    def __init__(
        self,
        rgb: PixelReader,
        networks: Mapping[str, LatentReader],
        codec: Codec,
        device: torch.device,
        read: Reader,
    ):
        self._rgb, self._networks, self._codec = rgb, networks, codec
        self._device, self._read = device, read
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self.agreements: dict[str, dict[str, Any]] = defaultdict(dict)
        self.rates: list[float] = []

    @torch.no_grad()
    def add(self, image: torch.Tensor) -> None:
        """Run all networks on an image."""
        latent, size = self._codec.encode(image.float() / 255), tuple(image.shape[1:])
        runs: dict[str, Callable[[], Any]] = {ORIGINALS: lambda: self._rgb.run([image])}
        for name, network in self._networks.items():
            runs[name] = lambda network=network: network([latent])
        if not self.rates:  # warm up
            for run in runs.values():
                run()
        outputs = {name: self._read(self._time(name, run), size) for name, run in runs.items()}
        for name, output in outputs.items():
            _add_agreements(self.agreements[name], outputs[ORIGINALS], output, size)
        self.rates.append(latent.bits_per_pixel)

    def results(self) -> tuple[list[Row], dict[str, float], dict[str, tuple[float, float]]]:
        """Return rows, and the candidate's differences from DECODED with their intervals."""
        rows = {
            name: Row(
                name,
                {kind: agreement.value() for kind, agreement in agreements.items()},
                {},
                None if name == ORIGINALS else fmean(self.rates),
                1000 * median(self._seconds[name]),
            )
            for name, agreements in self.agreements.items()
        }
        differences, difference_intervals = {}, {}
        for kind in self.agreements[ORIGINALS]:
            agreements = {name: self.agreements[name][kind] for name in self._networks}
            samples = resample(list(agreements.values()), len(self.rates))
            sampled = dict(zip(agreements, samples.T, strict=True))
            for name, agreement in agreements.items():
                rows[name].intervals[kind] = (
                    share_interval(agreement.value(), len(self.rates))
                    if isinstance(agreement, ClassAgreement)
                    else interval(sampled[name])
                )
            candidate = list(self._networks)[-1]
            ends = [rows[name].agreement[kind] for name in (candidate, DECODED)]
            differences[kind] = ends[0] - ends[1]
            difference_intervals[kind] = interval(sampled[candidate] - sampled[DECODED])
        for name, agreements in self.agreements.items():
            if "top1" in agreements:
                rows[name].agreement["divergence"] = fmean(agreements["top1"].divergences)
        return list(rows.values()), differences, difference_intervals

    def _time(self, name: str, run: Callable[[], Any]) -> Any:
        synchronize(self._device)
        begin = time.perf_counter()
        output = run()
        synchronize(self._device)
        self._seconds[name].append(time.perf_counter() - begin)
        return output


def _add_agreements(
    agreements: dict[str, Any], expected: ImageOutput, output: ImageOutput, size: tuple[int, int]
) -> None:
    """Add an image to the agreements of a network, by the kinds of its output."""
    if expected.logits is not None:
        agreements.setdefault("top1", ClassAgreement()).add(expected.logits, output.logits)
    if expected.detections is not None:
        kinds = {"AP": "bbox"} | ({"mask_AP": "segm"} if "masks" in expected.detections else {})
        for kind, task in kinds.items():
            agreement = agreements.setdefault(kind, DetectionAgreement(CONFIDENT_SCORE, task))
            agreement.add(expected.detections, output.detections, size)
    if expected.label_map is not None:
        agreement = agreements.setdefault("mIoU", LabelMapAgreement(expected.num_classes))
        agreement.add(expected.label_map, output.label_map)
    if expected.features is not None:
        cosine = float(F.cosine_similarity(expected.features, output.features, 0))
        agreements.setdefault("cosine", MeanAgreement()).shares.append(cosine)
