"""What is exported of a model: parts that are functions of tensors, and a card that describes them.

Shapes: N images, R regions, C channels, h x w cells of what a network reads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from cdl_d2.device import device_of
from cdl_d2.errors import CdlError
from cdl_d2.nn.bridge.latent_translation import LatentTranslation
from cdl_d2.nn.input.coded_input import CodedInput


@dataclass(frozen=True)
class Axis:
    """A side whose size is known only when a graph runs: a whole number of `multiple`s."""

    name: str
    multiple: int = 1

    def __str__(self) -> str:
        return self.name if self.multiple == 1 else f"{self.multiple}*{self.name}"


Shape = tuple[int | Axis, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """A part of a model that can be exported.

    Attributes:
        name: of its file.
        module: takes the inputs, in order, and gives a tensor, or nested lists, tuples or dicts of
            tensors.
        inputs: shapes, by name; all are float32.
        outputs: names of what the module gives, flattened; of a dict, the keys that are wanted.
        sizes: an example, the size of each axis in multiples; at least 2, since torch.export takes
            1 for a constant.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    sizes: dict[str, int]

    def draw(self, sizes: Mapping[str, int] | None = None) -> tuple[torch.Tensor, ...]:
        """Normally distributed inputs; `sizes` take the place of the example's."""
        known = self.sizes | dict(sizes or {})
        return tuple(
            torch.randn([d if isinstance(d, int) else d.multiple * known[d.name] for d in shape])
            for shape in self.inputs.values()
        )

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """What the module gives, in the order of `outputs`."""
        with torch.no_grad():
            return flatten(self.module(*inputs), self.outputs)


@dataclass(frozen=True, eq=False)
class ModelGraphs:
    """What is exported of a model.

    Attributes:
        graphs: `backbone` first; its last input sides are axes, or fixed.
        card: what a user of the graphs must know of the model, plain values.
        fixed_size: (H, W) in pixels that the graphs are made for; None for any.
        usual_size: (H, W) of all images that the model is evaluated on, if they are of one size.
    """

    graphs: tuple[Graph, ...]
    card: dict[str, Any] = field(default_factory=dict)
    fixed_size: tuple[int, int] | None = None
    usual_size: tuple[int, int] | None = None


class ListInput(nn.Module):
    """Gives a head that takes a list of levels these as arguments."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, *levels: torch.Tensor) -> Any:
        """What the head gives of [levels]."""
        return self.head(list(levels))


def flatten(output: Any, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
    """The tensors in what a module gave, in order; of a dict, those of `names`."""
    if isinstance(output, torch.Tensor):
        return (output,)
    if isinstance(output, dict):
        return tuple(output[name] for name in names)
    return tuple(tensor for each in output for tensor in flatten(each, names))


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a model itself if it is on the CPU, where graphs are traced and compared, else a copy
    there."""
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
    """The input of a network, and the sizes that it may have.

    Attributes:
        shown: domain and codec.
        multiple: of both sides in pixels, to which whoever calls a graph pads with zeros.
        example: (H, W) in pixels to trace the network with, where no size is fixed.
        fixed: (H, W) in pixels, if the size is; rounded up to `multiple`.
    """

    shown: CodedInput
    multiple: int
    example: tuple[int, int]
    fixed: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Of the graph's input."""
        return "pixels" if self.shown.has_pixels else "y_hat"

    @property
    def cells(self) -> int:
        """`multiple`, in cells of what the network reads."""
        return max(self.multiple // self.shown.stride, 1)

    def sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """How many multiples cover (H, W) pixels."""
        height, width = (-(-side // (self.cells * self.shown.stride)) for side in size)
        return height, width

    @property
    def shape(self) -> Shape:
        """N x C x h x w of the input."""
        channels = self.shown.channels
        if self.fixed is None:
            return Axis("n"), channels, Axis("h", self.cells), Axis("w", self.cells)
        height, width = (self.cells * side for side in self.sides(self.fixed))
        return Axis("n"), channels, height, width

    @property
    def sizes(self) -> dict[str, int]:
        """Of the axes, for Graph."""
        height, width = self.sides(self.example)
        return {"n": 2} if self.fixed else {"n": 2, "h": height, "w": width}

    def card(
        self, mean: Sequence[float] = (), std: Sequence[float] = (), largest: int = 255
    ) -> dict[str, Any]:
        """The part of a card that describes the input.

        Args:
            mean, std: of pixels in 0..`largest`, by which a pixel network's are normalized.
        """
        shown = self.shown
        identity = shown.codec.identity if shown.codec else None
        card = {"domain": shown.domain, "codec": vars(identity) if identity else None}
        whole = f"zeros on the right and below make both sides multiples of {self.multiple} pixels"
        if not shown.has_pixels:
            card["input"] = (
                f"y_hat of this codec, {identity.quantization}: a cell covers {shown.stride} x "
                f"{shown.stride} pixels; {whole}, {self.cells} cells"
            )
        else:
            what = "decoded" if shown.codec else "original"
            card["input"] = (
                f"pixels of {what} images, channels {shown.channel_order}, in 0..{largest}, minus "
                f"mean, over std; then {whole}"
            )
            card["normalization"] = {
                "channel_order": shown.channel_order,
                "largest_value": largest,
                "mean": list(mean),
                "std": list(std),
            }
        card["pixels_a_cell"], card["multiple_of_pixels"] = shown.stride, self.multiple
        card["multiple_of_cells"] = self.cells
        return card


def region_graph(
    name: str, module: nn.Module, channels: int, side: int, outputs: Sequence[str]
) -> Graph:
    """A head on pooled features, R x C x side x side."""
    shape = (Axis("r"), channels, side, side)
    return Graph(name, module, {"pooled": shape}, tuple(outputs), {"r": 3})


def level_graph(
    name: str,
    head: nn.Module,
    levels: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    fixed: bool,
) -> Graph:
    """A head on the levels of a pyramid, given as a list; it gives a list for each kind of output.

    Args:
        levels: an example, by name, N x C x h_i x w_i.
        outputs: the kinds.
        fixed: whether the sizes of levels are those of the example.
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
