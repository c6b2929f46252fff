"""The record of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from torch import nn

from cdl_d2 import tasks
from cdl_d2.d2.data.encoding_mapper import Mapper
from cdl_d2.export.graphs import ModelGraphs
from cdl_d2.nn.input.coded_input import CodedInput


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task, for one family of meta-architectures.

    Attributes:
        base: entry of the table of tasks that all packages share.
        architecture: class that the meta-architectures of the family derive from.
        register: for each data-set option of `base`, the function that registers a data set, from
            its name and the option's further values.
        check_dataset: raises CdlError unless a data set, given by name, fits a config.
        build_mapper: returns the mapper of a config, for training (True) or evaluation (False).
        build_evaluator: returns the evaluator for a config, a data set's name and the folder that
            it writes to.
        check_evaluator: raises CdlError if build_evaluator would fail for a config and a data set.
        num_classes: config key of the number of classes, in MODEL; empty for a task without.
        class_names: returns a data set's class names, in the order of labels.
        other_names: keys of further names in MODEL, and functions like `class_names` for them.
        of_one_size: whether evaluation resizes and crops all images to one size and batches them.
        build_graphs: returns what can be exported of a model, from the model, its coded input,
            its config and the fixed size of images or None; None if nothing can.
        latent_architectures: for each meta-architecture that `cdl convert` takes, the one that
            reads latents in its place.
    """

    base: tasks.Task
    architecture: type[nn.Module]
    register: Mapping[str, Callable[..., None]] = field(default_factory=dict)
    check_dataset: Callable[[CfgNode, str], None] = lambda cfg, dataset: None
    build_mapper: Callable[[CfgNode, bool], Mapper]
    build_evaluator: Callable[[CfgNode, str, str], DatasetEvaluator]
    check_evaluator: Callable[[CfgNode, str], None] = lambda cfg, dataset: None
    num_classes: str = ""
    class_names: Callable[[str], Sequence[str]] = lambda dataset: ()
    other_names: Mapping[str, Callable[[str], Sequence[str]]] = field(default_factory=dict)
    of_one_size: bool = False
    build_graphs: (
        Callable[[nn.Module, CodedInput, CfgNode, tuple[int, int] | None], ModelGraphs] | None
    ) = None
    latent_architectures: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the task, also of its folder in configs/."""
        return self.base.name
