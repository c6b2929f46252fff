"""Report of a conversion without labels: agreement with the RGB network on the originals."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cdl_d2.files import write_json

REPORT_FILE = "report.json"
ORIGINALS, DECODED, FINE_TUNED, CONVERTED = (
    *("RGB network on originals", "RGB network on decoded images"),
    *("fine-tuned RGB network on decoded images", "converted network"),
)
NOT_TUNED = "RGB network on decoded images, not fine-tuned"  # a candidate without a training
CONFIDENT_SCORE = 0.5  # of the RGB network's detections
LEAST_AGREEMENT = 25.0  # percent, below which neither way is of use
KINDS = {  # of agreement, in percent
    "top1": "top-1 agreement",
    "AP": "box AP against the RGB network's detections",
    "mask_AP": "mask AP against the RGB network's detections",
    "mIoU": "mIoU with the RGB network's label maps",
    "cosine": "cosine similarity",
}


@dataclass(frozen=True)
class Row:
    """Results of a network.

    Attributes:
        name: name of the network.
        agreement: in percent by key of KINDS; `divergence` D(RGB || network) in nats of classes.
        intervals: low and high end of the 95 % interval of each agreement over images.
        bits_per_pixel: mean of estimated bits per pixel; None for the originals.
        milliseconds: median time of an image, from its latent (originals: pixels) to the output.
    """

    name: str
    agreement: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    bits_per_pixel: float | None
    milliseconds: float


@dataclass(frozen=True)
class Report:
    """Table of agreement with an RGB network.

    Attributes:
        codec: identity of the codec, in words.
        quality: its quality.
        images: number of images.
        objects: number of the RGB network's confident detections; None without detections.
        threads: threads of PyTorch while the times were measured.
        device: device of the networks.
        rows: results, the originals first.
        candidate: name of the network that is compared with decoding.
        difference: agreement of the candidate less that of decoding, in points, by kind.
        difference_intervals: their 95 % intervals, over the same images of both.
        history: validation losses of the distillation.
    """

    codec: str
    quality: int
    images: int
    objects: int | None
    threads: int
    device: str
    rows: list[Row]
    candidate: str
    difference: dict[str, float]
    difference_intervals: dict[str, tuple[float, float]]
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Key of the agreement that counts, the first of KINDS."""
        return next(iter(self.difference))

    def row(self, name: str) -> Row:
        """Return the results of a network by name."""
        return next(row for row in self.rows if row.name == name)

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of a table for people."""
        return [
            {
                "": row.name,
                **{KINDS[k]: _with_interval(row, k) for k in self.difference},
                **({"KL (nats)": row.agreement["divergence"]} if self.kind == "top1" else {}),
                "bits/pixel": row.bits_per_pixel,
                "ms/image": f"{row.milliseconds:.1f}",
            }
            for row in self.rows
        ]

    @property
    def decoding_agrees_more(self) -> bool:
        """True if decoding is ahead by more than chance."""
        return self.difference_intervals[self.kind][1] < 0

    def summary(self) -> str:
        """Return sentences: what was measured, and which of decoding and conversion agrees more."""
        title, difference = KINDS[self.kind], self.difference[self.kind]
        measured = (
            f"Agreement with the RGB network, not accuracy, on {self.images} images kept aside; "
            f"times per image on {self.device} with {self.threads} threads from latent to output "
            "(medians)."
        )
        if not np.isfinite(difference):
            return (
                f"{measured} The RGB network has no detection of a score of {CONFIDENT_SCORE} or "
                "more on these images, so there is nothing to compare: give images like those that "
                "it is for."
            )
        agreements = [self.row(name).agreement[self.kind] for name in (DECODED, self.candidate)]
        if max(agreements) < LEAST_AGREEMENT:
            return (
                f"{measured} Both agree with the RGB network on less than {LEAST_AGREEMENT:.0f} %: "
                f"{title} {agreements[0]:.1f} for decoding, {agreements[1]:.1f} for the "
                f"{self.candidate}. Neither is of use: the codec keeps too little of the images at "
                "this quality, or they are not of the kind that the RGB network is for."
            )
        low, high = self.difference_intervals[self.kind]
        spread = f"{difference:+.1f} points of {title}, interval {low:+.1f} to {high:+.1f}"
        decoded, converted = (self.row(name).milliseconds for name in (DECODED, self.candidate))
        times = f"it takes {converted / decoded:.2f} of the time of decoding"
        if self.decoding_agrees_more:
            return (
                f"{measured} Decoding agrees more ({spread}): keep decoding, or give the conversion"
                f" more images or more time; {times}."
            )
        if low > 0:
            return f"{measured} The {self.candidate} agrees more ({spread}); {times}."
        return (
            f"{measured} These images show no difference between the {self.candidate} and decoding "
            f"with the RGB network ({spread}); {times}."
        )

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Return the report that `save` wrote to a folder."""
        content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        del content["summary"]
        rows = [
            Row(**_with_nan(row) | {"bits_per_pixel": row["bits_per_pixel"]})
            for row in content["rows"]
        ]
        return cls(**_with_nan(content) | {"rows": rows, "objects": content["objects"]})

    def save(self, folder: Path) -> Path:
        """Write `report.json` to a folder, and return its path."""
        path = folder / REPORT_FILE
        write_json(path, asdict(self) | {"summary": self.summary()})
        return path


def _with_nan(value: Any) -> Any:
    """Return JSON values with NaN for None, which stands for it there."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return np.nan if value is None else value


def _with_interval(row: Row, kind: str) -> str:
    """Return an agreement and its interval, such as `70.4 (64.1 to 76.0)`."""
    value = row.agreement[kind]
    if row.name == ORIGINALS or not np.isfinite(value):
        return f"{value:.1f}" if np.isfinite(value) else "-"
    low, high = row.intervals[kind]
    return f"{value:.1f} ({low:.1f} to {high:.1f})"
