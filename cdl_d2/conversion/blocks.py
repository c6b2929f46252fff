"""Depths of a network: its layers in the order in which they run, and the points to compare.

A block is an element of an nn.Sequential or nn.ModuleList, however nested, that has parameters and
is no such container itself: a residual block, a transformer layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

CONTAINERS = (nn.Sequential, nn.ModuleList)
POINTS = 5  # at which features are compared
# Parts of torchvision's and Detectron2's models, by the ends of their names.
PYRAMIDS = ("network.backbone",)
PYRAMID_BLOCKS = ".fpn."
PROPOSALS = ("rpn", "proposal_generator")
DENSE_HEADS = ("rpn.head", "proposal_generator.rpn_head", "network.head", "network.model.head")
LABEL_HEADS = ("sem_seg_head",)
REGION_HEADS = ("box_predictor",)
OBJECT_HEADS = ("mask_predictor", "mask_head.predictor", "kps_score_lowres", "score_lowres")


class Depths:
    """Layers and points of comparison of a teacher, and so of a student with the same names.

    Args:
        network: the teacher.
        run: runs it on an image or a batch.
        left_out: names of modules that are no points of comparison.

    Attributes:
        layers: names of the layers with parameters of their own, in the order in which they run.
        points: names of the modules whose outputs are compared.
    """

    def __init__(
        self, network: nn.Module, run: Callable[[], object], left_out: Collection[str] = ()
    ):
        order, modules = _record_order(network, run), dict(network.named_modules())
        self.layers = [n for n in order if any(True for _ in modules[n].parameters(recurse=False))]
        blocks = set(find_blocks(network))
        dense_heads = [n for n in modules if n.endswith(DENSE_HEADS) and order.get(n, 0) is None]
        wholes = PYRAMID_BLOCKS, *(f"{name}." for name in dense_heads)  # compared by their outputs
        blocks = {n for n in blocks if not any(whole in n for whole in wholes)}
        points = [n for n in order if n in blocks and _has_positions(order[n])]
        self.points = _evenly_spaced(points or self.layers, POINTS)
        parts = [n for n in order if n.endswith((*PYRAMIDS, *LABEL_HEADS))] + dense_heads
        self.points += [n for n in parts if n not in self.points and n not in left_out]
        self._regions = [n for n in order if n.removesuffix(_digits(n)).endswith(REGION_HEADS)]
        self._objects = [n for n in modules if n.endswith(OBJECT_HEADS)]
        proposals = [n for n in order if n.endswith(PROPOSALS)]
        # Modules whose outputs for the teacher replace the student's.
        self._shared = [*proposals, *self._regions] if self._regions else []
        self.has_detections = bool(self._regions or dense_heads)

    def first_layers(self, share: float) -> set[str]:
        """Return the names of the first layers, a share of all."""
        return set(self.layers[: round(share * len(self.layers))])

    @contextmanager
    def recorded(
        self, network: nn.Module, teacher: Mapping[str, list[Any]] | None = None
    ) -> Iterator[dict[str, list[Any]]]:
        """Record outputs while a network runs inside the block, in a list for each module.

        Args:
            network: the teacher or the student, which may lack some of the teacher's modules.
            teacher: what was recorded of the teacher. Its proposals and its boxes replace the
                student's, once these are recorded, so that later heads of both read the same boxes.
        """
        record: dict[str, list[Any]] = {}

        def keep(name: str) -> Callable[..., Any]:
            def hook(module: nn.Module, inputs: object, output: object) -> Any:
                calls = record.setdefault(name, [])
                calls.append(output)
                is_replaced = teacher is not None and name in self._shared
                return teacher[name][len(calls) - 1] if is_replaced else output

            return hook

        with ExitStack() as stack:
            modules = dict(network.named_modules())
            for name in dict.fromkeys((*self.points, *self._shared, *self._objects)):
                if name in modules:
                    handle = modules[name].register_forward_hook(keep(name))
                    stack.callback(handle.remove)
            yield record

    def features(self, record: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the recorded outputs to compare as features, by module."""
        return {name: record[name] for name in self.points if name in record}

    def outputs(self, record: Mapping[str, list[Any]], output: Any) -> Any:
        """Return the outputs to compare: a detector's for each region, or else the network's."""
        if not self.has_detections:
            return output
        names = ("logits", "boxes")
        regions = [
            dict(zip(names, call, strict=False)) for name in self._regions for call in record[name]
        ]
        return {"regions": regions, "objects": [record.get(name, []) for name in self._objects]}


def find_blocks(network: nn.Module) -> list[str]:
    """Return the names of a network's blocks, as they are defined."""
    blocks: list[str] = []

    def search(name: str, module: nn.Module, in_container: bool) -> None:
        is_container = type(module) in CONTAINERS
        if in_container and not is_container:
            blocks.extend([name] if any(True for _ in module.parameters()) else [])
            return
        for child_name, child in module.named_children():
            search(f"{name}.{child_name}" if name else child_name, child, is_container)

    search("", network, False)
    return blocks


def _record_order(network: nn.Module, run: Callable[[], object]) -> dict[str, Any]:
    """Return the modules that a function runs, by name in the order in which they first end.

    The values are the shapes of their first outputs, or None of those that are no tensors.
    """
    order: dict[str, Any] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            order.setdefault(name, getattr(output, "shape", None))

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in network.named_modules():
            stack.callback(module.register_forward_hook(note(name)).remove)
        run()
    return order


def _has_positions(shape: torch.Size | None) -> bool:
    return shape is None or len(shape) > 2


def _evenly_spaced(names: list[str], count: int) -> list[str]:
    """Return `count` names at even distances, the last one among them; all if there are fewer."""
    if len(names) <= count:
        return list(names)
    return [names[round((i + 1) * len(names) / count) - 1] for i in range(count)]


def _digits(name: str) -> str:
    """Return the last part of a module's name if it is a number in a list, such as `.0`."""
    parent, _, last = name.rpartition(".")
    return f".{last}" if parent and last.isdigit() else ""
