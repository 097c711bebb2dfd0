"""A second device without a GPU: its tensors keep their numbers on the CPU, and refuse to meet a tensor of the CPU.

`register` makes the device `second` for the whole process, so tests that need it run in one of their own.
A tensor made without `device=` lies on the CPU: code that forgets where it works fails here as it fails on a GPU.
Speed and memory mean nothing. torch's registration of a device from Python is experimental, and torch 2.9 has none.
"""

from typing import Any

import torch
from torch.utils import _pytree as pytree

NAME = "second"
_CPU = torch.device("cpu")
_COPY = torch.ops.aten.copy_.default
# operators whose purpose is to take numbers from one device to another
_CROSSING = {_COPY, torch.ops.aten._to_copy.default}
# factories that torch makes of an empty tensor and a resize: a wrapper has one size for life
_FACTORIES = (
    "arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "logspace", "range", "range.step",
    "randperm", "randperm.generator",
)  # fmt: skip
_LIBRARIES: list[torch.library.Library] = []


class Remote(torch.Tensor):
    """A tensor on the second device; `numbers` is the same tensor on the CPU."""

    numbers: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "Remote":
        """Wrap a tensor of the CPU: size, strides and type are its own, the device is not."""
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(NAME, 0),
        )
        self.numbers = numbers
        return self

    def __repr__(self) -> str:
        """The numbers, and where they are."""
        return f"{self.numbers!r} on {NAME}"

    def tolist(self) -> Any:
        """The numbers as Python's."""
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on the CPU's numbers; what comes out is on the device that a GPU would leave it on."""
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if operator not in _CROSSING:
            _refuse_strangers(operator, given)
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        here, named = pytree.tree_map_only(Remote, lambda leaf: leaf.numbers, (args, kwargs))
        result = operator(*here, **named)
        if operator is _COPY:
            return args[0]
        if target is not None and torch.device(target).type != NAME:
            return result
        # an operator in place returns its argument, not another tensor beside it
        own = {id(leaf.numbers): leaf for leaf in given if isinstance(leaf, Remote)}
        return pytree.tree_map_only(torch.Tensor, lambda leaf: _wrapped(leaf, own), result)


def _refuse_strangers(operator: Any, given: list[torch.Tensor]) -> None:
    """Single numbers of the CPU go along, as on a GPU; no other tensor does."""
    if any(leaf.dim() for leaf in given if not isinstance(leaf, Remote)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu "
            f"(in {operator})"
        )


def _wrapped(numbers: torch.Tensor, own: dict[int, Remote]) -> Remote:
    known = own.get(id(numbers))
    return known if known is not None and known.shape == numbers.shape else Remote(numbers)


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Remote:
    form = memory_format or torch.contiguous_format
    return Remote(torch.empty(size, dtype=dtype, device=_CPU, memory_format=form))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Remote:
    return Remote(torch.empty_strided(size, stride, dtype=dtype, device=_CPU))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    into, out_of = (t.numbers if isinstance(t, Remote) else t for t in (target, source))
    into.copy_(out_of)
    return target


def _factory(operator: Any) -> Any:
    """A factory that makes its tensor whole."""

    def make(*args: Any, device: Any = None, pin_memory: Any = None, **kwargs: Any) -> Remote:
        return Remote(operator(*args, device=_CPU, **kwargs))

    return make


def register() -> None:
    """Make the device; a second call does nothing."""
    if _LIBRARIES:
        return
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    for name in _FACTORIES:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
        library.impl(name, _factory(operator), "PrivateUse1")
    _LIBRARIES.append(library)
