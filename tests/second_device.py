"""A second device for PyTorch, "sim": it computes on the CPU, and refuses to mix with the CPU as a
GPU does.

    from tests import second_device
    second_device.install()
    model.to("sim")  # or torch.zeros(3, device="sim"), MODEL.DEVICE sim, ...

A machine without a GPU hides tensors that are made on the wrong device, modules that stay behind,
`.numpy()` of a tensor that is elsewhere, and work on the device in a worker. Here they raise, with
PyTorch's own words for CUDA where it has some. As on a GPU

- all tensors of an operation are on one device, but for copies, indices of a tensor on the device,
  and tensors without dimensions that an elementwise operation takes as numbers;
- random numbers come from a generator of the device's own, which `torch.manual_seed` seeds too;
- a forked process cannot use the device;
- `torch.save` keeps the device, and `torch.load` returns to it without `map_location`;
- autocast lowers the precision of convolutions and matrix products.

Not simulated: kernels and their rounding, memory, streams, and several devices. Nothing of PyTorch
is replaced, so that tests of other things can run in the same process.

PyTorch calls what this is built on experimental: `is_available` says whether it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
import torchvision  # noqa: F401  has operations of its own
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

NAME = "sim"
aten = torch.ops.aten

COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
FILLING = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
# PyTorch makes an empty tensor of the device and changes its size, where nothing else is known.
RESIZING = ("arange", "arange.start", "arange.start_step", "eye", "eye.m")
LOWER = (  # the precision of which autocast lowers
    *(aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default),
    *(aten.matmul.default, aten.addmm.default, aten.mm.default, aten.bmm.default),
)


class SimTensor(torch.Tensor):
    """A tensor on the device: its shape and type, around `on_cpu`, a CPU tensor with its values."""

    @staticmethod
    def __new__(cls, on_cpu: torch.Tensor) -> SimTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            layout=on_cpu.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, on_cpu: torch.Tensor):
        self.on_cpu = on_cpu

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:
        """The tensor without its history; what is assigned to it takes the place of the values."""
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other: SimTensor) -> None:
        torch.Tensor.data.__set__(self, other)
        self.on_cpu = other.on_cpu

    def numpy(self, *args, **kwargs):
        """Refuse, as tensors on a GPU do."""
        raise TypeError(
            f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy "
            "the tensor to host memory first."
        )

    __array__ = numpy

    def tolist(self):
        """Copy the values into lists, as tensors on a GPU do."""
        return self.on_cpu.tolist()

    def __reduce_ex__(self, protocol):
        values = self.detach().cpu(), self.dtype, str(self.device), self.requires_grad
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, values

    def __repr__(self, **kwargs):
        return f"{self.on_cpu!r} on {self.device}"


class _DeviceModule:
    """Functions that PyTorch calls as `torch.sim`; random numbers of the device."""

    def __init__(self):
        self._state = torch.get_rng_state()

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: object = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def _is_in_bad_fork(self) -> bool:
        return os.getpid() != _process

    def manual_seed_all(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()

    manual_seed = manual_seed_all

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return self._state.clone()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        self._state = state.clone()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let CPU operations draw from this generator instead of their own."""
        theirs = torch.get_rng_state()
        torch.set_rng_state(self._state)
        try:
            yield
        finally:
            self._state = torch.get_rng_state()
            torch.set_rng_state(theirs)


_module = _DeviceModule()
_libraries: list[torch.library.Library] = []
_process: int | None = None  # the one that installed the device


def is_available() -> bool:
    """Return whether this PyTorch can have a device that is written in Python (2.9 and later)."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def install() -> None:
    """Make the device known to PyTorch, for as long as the process runs."""
    global _process
    if _libraries:
        return
    # Autograd starts a thread for each device that it finds in its first backward pass, after which
    # a forked process cannot run one. It finds none here: see `autograd_in_one_thread`.
    torch.ones(1, requires_grad=True).sum().backward()
    _process = os.getpid()
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_module)
    every, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    own.impl("copy_", _copy_, "PrivateUse1")  # torch.tensor and indices in lists skip SimTensor
    for name in RESIZING:
        own.impl(name, _made_by(getattr(torch, name.partition(".")[0])), "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for op in LOWER:
        own.impl(op.name(), _under_autocast(op, lower=True), "AutocastPrivateUse1")
    boxes = torch.library.Library("torchvision", "IMPL")
    for op in (torch.ops.torchvision.nms.default, torch.ops.torchvision.roi_align.default):
        boxes.impl(op.name(), _under_autocast(op, lower=False), "AutocastPrivateUse1")
    _libraries.extend((every, own, boxes))


@contextmanager
def autograd_in_one_thread() -> Iterator[None]:
    """Run backward passes in the calling thread, since autograd has none for the device."""
    with torch.autograd.set_multithreading_enabled(False):
        yield


def _copy_(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return _run(aten.copy_.default, (target, source, non_blocking), {})


def _made_by(make: Callable[..., torch.Tensor]) -> Callable[..., SimTensor]:
    def make_on_device(*args, dtype=None, layout=None, device=None, pin_memory=None):
        return SimTensor(make(*args, dtype=dtype, device="cpu"))

    return make_on_device


def _under_autocast(op: torch._ops.OpOverload, lower: bool) -> Callable[..., torch.Tensor]:
    """Make of an operation one whose inputs are of autocast's type, or else of float32."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        dtype = torch.get_autocast_dtype(NAME) if lower else torch.float32
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def run(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(*_map(cast, args), **_map(cast, kwargs))

    return run


def _run(op: torch._ops.OpOverload, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation that reads or makes tensors on the device."""
    if os.getpid() != _process:
        raise RuntimeError(
            f"Cannot re-initialize {NAME} in forked subprocess. To use {NAME} with "
            "multiprocessing, you must use the 'spawn' start method"
        )
    tensors: list[torch.Tensor] = []

    def values(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor.on_cpu if isinstance(tensor, SimTensor) else tensor

    plain_args = [_map(values, value) for value in args]
    plain_kwargs = {key: _map(values, value) for key, value in kwargs.items()}
    plain_kwargs.pop("pin_memory", None)
    _check_devices(op, args, tensors)
    device = kwargs.get("device")
    on_device = any(isinstance(t, SimTensor) for t in tensors)
    makes_on_device = on_device if device is None else torch.device(device).type == NAME
    if device is not None and makes_on_device:
        plain_kwargs["device"] = torch.device("cpu")
    is_random = makes_on_device and torch.Tag.nondeterministic_seeded in op.tags
    with _module.drawing() if is_random else nullcontext():
        outputs = op(*plain_args, **plain_kwargs)
    # An operation in place returns what it was given.
    given = {id(t.on_cpu if isinstance(t, SimTensor) else t): t for t in tensors}
    new = SimTensor if makes_on_device else lambda t: t
    outputs = _map(lambda t: given[id(t)] if id(t) in given else new(t), outputs)
    if on_device and _has_aliases(op):
        outputs = return_and_correct_aliasing(op, args, kwargs, outputs)
    for tensor in tensors:
        if isinstance(tensor, SimTensor) and tensor.shape != tensor.on_cpu.shape:
            raise NotImplementedError(f"{op} changed a size in place, which is not simulated")
    return outputs


def _check_devices(op: torch._ops.OpOverload, args: tuple, tensors: list[torch.Tensor]) -> None:
    """Raise PyTorch's error of CUDA unless the tensors of an operation may meet."""
    elsewhere = [t for t in tensors if not isinstance(t, SimTensor)]
    if not elsewhere or len(elsewhere) == len(tensors) or op in COPIES:
        return
    if op in INDEXING and isinstance(args[0], SimTensor):
        elsewhere = [t for t in args[2:3] if t.dim() and not isinstance(t, SimTensor)]
    elif op in FILLING or torch.Tag.pointwise in op.tags or "_foreach" in op.name():
        elsewhere = [t for t in elsewhere if t.dim()]
    if elsewhere:
        shapes = [(t.device.type, tuple(t.shape)) for t in tensors]
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{NAME}:0 and cpu! ({op} of {shapes})"
        )


@cache
def _has_aliases(op: torch._ops.OpOverload) -> bool:
    """Return whether an operation gives views of tensors, or changes them."""
    return any(argument.alias_info is not None for argument in op._schema.arguments)


def _map(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """Apply a function to all tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_map(change, each) for each in value])
    if isinstance(value, dict):
        return {key: _map(change, each) for key, each in value.items()}
    return value
