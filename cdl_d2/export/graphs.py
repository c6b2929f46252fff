"""Exported parts of a model, which are functions of tensors, and the card that describes them.

Shapes: N images, R regions, C channels, h x w positions of a network's input.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cdl_d2.device import device_of
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.input.coded_input import CodedInput

if TYPE_CHECKING:
    from cdl_d2.export.whole_graphs import WholeGraph


@dataclass(frozen=True)
class Axis:
    """A side of variable size, a whole number of `multiple`s, and perhaps a margin."""

    name: str
    multiple: int = 1
    margin: int = 0

    def __str__(self) -> str:
        side = self.name if self.multiple == 1 else f"{self.multiple}*{self.name}"
        return f"{side} + {self.margin}" if self.margin else side

    def length(self, count: Any) -> Any:
        """Return the length of the side for a number, or a symbol, of multiples."""
        side = count if self.multiple == 1 else self.multiple * count
        return side + self.margin if self.margin else side


Shape = tuple[int | Axis, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A part of a model that can be exported.

    Attributes:
        name: name of its file.
        module: takes the inputs in order, and returns a tensor, or nested lists, tuples or dicts of
            tensors.
        inputs: shapes by name; all are float32.
        outputs: names of the flattened outputs; of a dict, the keys to export.
        sizes: example size of each axis in multiples; at least 2, since torch.export treats 1 as a
            constant.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    sizes: dict[str, int]

    def draw(self, sizes: Mapping[str, int] | None = None) -> tuple[torch.Tensor, ...]:
        """Draw normally distributed inputs; `sizes` override the example's."""
        sizes = self.sizes | dict(sizes or {})
        return tuple(
            torch.randn([d if isinstance(d, int) else d.length(sizes[d.name]) for d in shape])
            for shape in self.inputs.values()
        )

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the module's outputs, in the order of `outputs`."""
        with torch.no_grad():
            return flatten(self.module(*inputs), self.outputs)


@dataclass(frozen=True, eq=False)
class ModelGraphs:
    """Graphs of a model and their description.

    Attributes:
        graphs: parts, `backbone` first; its last input sides are axes, or fixed.
        card: plain values that a user of the graphs needs.
        fixed_size: (H, W) in pixels of all inputs; None for any size.
        usual_size: (H, W) in pixels of the model's evaluation, if it is a single size.
        whole: functions from all that the model or its codec reads to results, for ONNX only.
        not_exported: reasons why a function is missing, by its name.
    """

    graphs: tuple[Graph, ...]
    card: dict[str, Any] = field(default_factory=dict)
    fixed_size: tuple[int, int] | None = None
    usual_size: tuple[int, int] | None = None
    whole: tuple[WholeGraph, ...] = ()
    not_exported: dict[str, str] = field(default_factory=dict)


class ListInput(nn.Module):
    """A head that takes a list of levels, called with the levels as arguments."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, *levels: torch.Tensor) -> Any:
        return self.head(list(levels))


def flatten(output: Any, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """Return the tensors in a module's output, in order; of a dict, those of `names`."""
    if isinstance(output, torch.Tensor):
        return (output,)
    if isinstance(output, dict):
        return tuple(output[name] for name in names)
    return tuple(tensor for part in output for tensor in flatten(part, names))


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a model if it is on the CPU, where graphs are traced; else a copy on the CPU."""
    return model if device_of(model).type == "cpu" else copy.deepcopy(model).cpu()


def check_one_codec(model: nn.Module) -> None:
    """Raise CdlError for a model with a LatentTranslation.

    It maps the latents of several codecs to those of one, image by image before batching, which
    is outside of a graph.
    """
    if any(isinstance(module, LatentTranslation) for module in model.modules()):
        raise CdlError(
            "a bridged model of several qualities cannot be exported: take one of one quality"
        )


@dataclass(frozen=True)
class InputGrid:
    """Input of a network, and the sizes that it may have.

    Attributes:
        coded_input: domain and codec.
        multiple: both sides are multiples of it, in pixels; the caller pads with zeros. Latents of
            a network that reads the margin have it in addition.
        example: (H, W) in pixels for tracing, if no size is fixed.
        fixed: (H, W) in pixels, if the size is fixed; rounded up to `multiple`.
    """

    coded_input: CodedInput
    multiple: int
    example: tuple[int, int]
    fixed: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Name of the graph's input."""
        return "pixels" if self.coded_input.has_pixels else "y_hat"

    @property
    def positions(self) -> int:
        """`multiple`, in positions of the network's input."""
        return max(self.multiple // self.coded_input.stride, 1)

    def sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the numbers of multiples that cover (H, W) pixels."""
        height, width = (-(-side // (self.positions * self.coded_input.stride)) for side in size)
        return height, width

    @property
    def shape(self) -> Shape:
        """Shape of the input, N x C x h x w."""
        coded_input, step = self.coded_input, (self.positions, self.coded_input.margin)
        height, width = Axis("h", *step), Axis("w", *step)
        if self.fixed is not None:
            pairs = zip((height, width), self.sides(self.fixed), strict=True)
            height, width = (axis.length(count) for axis, count in pairs)
        return Axis("n"), coded_input.channels, height, width

    @property
    def sizes(self) -> dict[str, int]:
        """Example sizes of the axes, for Graph."""
        height, width = self.sides(self.example)
        return {"n": 2} if self.fixed else {"n": 2, "h": height, "w": width}

    def card(
        self, mean: Sequence[float] = (), std: Sequence[float] = (), largest: int = 255
    ) -> dict[str, Any]:
        """Return the part of a card that describes the input.

        Args:
            mean: channel means for the normalization of pixels.
            std: channel standard deviations for the normalization of pixels.
            largest: value of white pixels before the normalization.
        """
        coded_input = self.coded_input
        identity = coded_input.codec.identity if coded_input.codec else None
        card = {"domain": coded_input.domain, "codec": vars(identity) if identity else None}
        whole = f"zeros on the right and below make both sides multiples of {self.multiple} pixels"
        if not coded_input.has_pixels:
            sides = f"{whole}, {self.positions} positions"
            if margin := coded_input.margin:
                card["margin"] = margin
                sides = (
                    "all positions that are coded, cropped or padded with zeros to those of an "
                    f"image whose sides are multiples of {self.multiple} pixels, {self.positions} "
                    f"positions, and {margin} more rows and columns"
                )
            card["input"] = (
                f"y_hat of this codec, {identity.quantization}: a latent position covers "
                f"{coded_input.stride} x {coded_input.stride} pixels; {sides}"
            )
        else:
            what = "reconstructed" if coded_input.codec else "original"
            card["input"] = (
                f"pixels of {what} images, channels {coded_input.channel_order}, in 0..{largest}, "
                f"minus mean, over std; then {whole}"
            )
            card["normalization"] = {
                "channel_order": coded_input.channel_order,
                "largest_value": largest,
                "mean": list(mean),
                "std": list(std),
            }
        card["stride"], card["multiple_of_pixels"] = coded_input.stride, self.multiple
        card["multiple_of_positions"] = self.positions
        return card


def region_graph(
    name: str, module: nn.Module, channels: int, side: int, outputs: Sequence[str]
) -> Graph:
    """Return the graph of a head on pooled features, R x C x side x side."""
    shape = (Axis("r"), channels, side, side)
    return Graph(name, module, {"pooled": shape}, tuple(outputs), {"r": 3})


def level_graph(
    name: str,
    head: nn.Module,
    levels: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    fixed: bool,
) -> Graph:
    """Return the graph of a head that maps a list of pyramid levels to lists of outputs.

    Args:
        name: name of the graph.
        head: called with the list of levels.
        levels: example features by name, N x C x h_i x w_i.
        outputs: names of the lists that the head returns.
        fixed: True if levels always have the sizes of the example.
    """
    inputs, sizes = {}, {"n": 2}
    for level, feature in levels.items():
        sides = dict(zip((f"{level}_h", f"{level}_w"), feature.shape[2:], strict=True))
        inputs[level] = (
            Axis("n"),
            feature.shape[1],
            *(feature.shape[2:] if fixed else map(Axis, sides)),
        )
        sizes |= {} if fixed else sides
    names = tuple(f"{kind}_{level}" for kind in outputs for level in levels)
    return Graph(name, ListInput(head), inputs, names, sizes)
