"""Values of a program: numbers somewhere in memory, or an expression of such numbers that is not computed yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .pointwise import Pointwise

_aten = torch.ops.aten


class Unsupported(Exception):
    """An operator or type has no rule in C."""


@dataclass(frozen=True)
class Read:
    """Strided numbers in a buffer, or, without a buffer, the numbers `offset + sum(i * stride)` themselves.

    Arguments:
        buffer: number of the buffer, or `None`.
        shape, strides: as of a tensor.
        offset: of the first element; the first number where there is no buffer.
        dtype: of the elements.
        gathered: further terms of the place: an index value of the same shape, its stride, and how many there are.
        step: how much further the numbers of the next task are, where this is the part of one task.
    """

    buffer: int | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: float
    dtype: torch.dtype
    gathered: tuple[tuple[Value, int, int], ...] = ()
    step: int = 0

    def last(self) -> int:
        """Place of the last element, from the offset of the first."""
        along = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return along + sum((size - 1) * stride for _, stride, size in self.gathered)


@dataclass(frozen=True)
class Apply:
    """A pointwise operator on values of its own shape; computed where it is read."""

    op: Pointwise
    args: tuple[Value, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


Value = Read | Apply
# views that a loop over an expression can follow without a copy
REINDEXING = {
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims),
    *(_aten.alias.default, _aten.detach.default),
}


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor in order."""
    strides = [1] * len(shape)
    for place in range(len(shape) - 2, -1, -1):
        strides[place] = strides[place + 1] * max(shape[place + 1], 1)
    return tuple(strides)


def dense(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor whose axes are in memory in some order.

    Example:
        >>> dense((2, 3, 4), (0, 2, 1))
        (12, 1, 3)
    """
    found = dict(zip(order, contiguous([shape[axis] for axis in order]), strict=True))
    return tuple(found[axis] for axis in range(len(shape)))


def reads(value: Value) -> list[Read]:
    """Everything an expression reads, in order."""
    if isinstance(value, Apply):
        return [read for arg in value.args for read in reads(arg)]
    return [read for index, _, _ in value.gathered for read in reads(index)] + [value]


def mapped(value: Value, move: Callable[[Read], Read]) -> Value:
    """The same expression with every read moved; the moves agree on the shape."""
    if isinstance(value, Apply):
        args = tuple(mapped(arg, move) for arg in value.args)
        return Apply(value.op, args, args[0].shape, value.dtype)
    gathered = tuple((mapped(index, move), stride, size) for index, stride, size in value.gathered)
    return replace(move(replace(value, gathered=())), gathered=gathered)


def expand(value: Value, shape: Sequence[int]) -> Value:
    """The value broadcast to a shape."""
    if value.shape == tuple(shape):
        return value
    return mapped(value, lambda read: seen_through(read, _aten.expand.default, [list(shape)], {}))


def seen_through(read: Read, view: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a view operator of torch makes of strided memory, found by applying it to a tensor without data.

    Raises:
        RuntimeError: no strides describe the result.
    """
    found = view(torch.empty_strided(read.shape, read.strides, device="meta"), *args, **kwargs)

    def moved(one: Tensor) -> Read:
        offset = read.offset + int(one.storage_offset())
        return replace(read, shape=tuple(one.shape), strides=tuple(one.stride()), offset=offset)

    return moved(found) if isinstance(found, Tensor) else [moved(one) for one in found]


def reindexed(value: Apply, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Value | None:
    """A view of an expression as an expression, where it only renames or drops axes; else `None`."""
    if target not in REINDEXING:
        return None
    try:
        return mapped(value, lambda read: seen_through(read, target, args, kwargs))
    except RuntimeError:
        return None


def permuted(read: Read, order: Sequence[int]) -> Read:
    """The axes in another order."""
    shape = tuple(read.shape[axis] for axis in order)
    return replace(read, shape=shape, strides=tuple(read.strides[axis] for axis in order))


def one_place(read: Read, axis: int) -> Read:
    """The first place along an axis."""
    return replace(read, shape=(*read.shape[:axis], 1, *read.shape[axis + 1 :]))


def order_in_memory(value: Value) -> list[int]:
    """The order of the axes in memory that suits an expression: that of the largest tensor it reads.

    Only values with an axis of tasks, of rows and two more are asked; the axis of tasks stays first.
    """
    natural = list(range(len(value.shape)))
    found = [read for read in reads(value) if read.buffer is not None and not read.gathered]
    if len(value.shape) < 4 or not found:
        return natural
    largest = max(found, key=_distinct_numbers)
    if any(size > 1 and not stride for size, stride in zip(largest.shape, largest.strides, strict=True)):
        return natural
    return [0, *sorted(natural[1:], key=lambda axis: -largest.strides[axis] if value.shape[axis] > 1 else 0)]


def _distinct_numbers(read: Read) -> int:
    return math.prod(size for size, stride in zip(read.shape, read.strides, strict=True) if stride)
