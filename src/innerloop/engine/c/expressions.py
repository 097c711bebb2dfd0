"""Values of a program: strided reads of memory, or lazy expressions of such reads that are not computed yet.

This is how pointwise operators are fused. A rule returns an `Apply` over the values of its operands, and nothing is
computed; where the numbers are needed in memory, the whole tree becomes the body of one loop nest. Views cost nothing:
they change shape, strides and offset of the reads at the leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .pointwise import Operator, Pointwise

__all__ = [
    "REINDEXING",
    "Apply",
    "Read",
    "Unsupported",
    "Value",
    "apply_view",
    "contiguous_strides",
    "dense_strides",
    "expand",
    "map_reads",
    "memory_order",
    "reads",
    "view_expression",
]

_aten = torch.ops.aten


class Unsupported(Exception):
    """An operator or type has no rule in C."""


@dataclass(frozen=True)
class Read:
    """Strided elements of a buffer; without a buffer, the numbers `offset + sum(index * stride)` themselves.

    Without a buffer and with all strides 0 it is a constant; with a stride it is an `arange`.

    Arguments:
        buffer: number of the buffer, or `None`.
        shape: as of a tensor.
        strides: as of a tensor, in elements; 0 where it is broadcast.
        offset: of the first element; the first number where there is no buffer.
        dtype: of the elements.
        gathered: indirect terms of the index: a value of the same shape that holds indices along an axis, the stride
            of the axis, and its size, against which they are checked.
        task_stride: how many elements further the part of the next task begins, where this is the part of one task.
    """

    buffer: int | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: float
    dtype: torch.dtype
    gathered: tuple[tuple[Value, int, int], ...] = ()
    task_stride: int = 0

    def last_offset(self) -> int:
        """Index of the last element, counted from the first."""
        along = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return along + sum((size - 1) * stride for _, stride, size in self.gathered)

    def permute(self, order: Sequence[int]) -> Read:
        """The axes in another order, as `torch.permute`."""
        shape = tuple(self.shape[axis] for axis in order)
        return replace(self, shape=shape, strides=tuple(self.strides[axis] for axis in order))

    def first_along(self, axis: int) -> Read:
        """The first element along an axis, which stays with size 1."""
        return replace(self, shape=(*self.shape[:axis], 1, *self.shape[axis + 1 :]))


@dataclass(frozen=True)
class Apply:
    """A pointwise operator on values of its own shape, lazy: it is computed in the loop that reads it.

    Arguments:
        op: its C.
        args: operands, broadcast to `shape`.
        shape: of the result.
        dtype: of the result.
    """

    op: Pointwise
    args: tuple[Value, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


Value = Read | Apply
# views that a loop over an expression can follow without a copy: they rename, permute or drop axes
REINDEXING = {
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims),
    *(_aten.alias.default, _aten.detach.default),
}


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor.

    Example:
        >>> contiguous_strides((2, 3, 4))
        (12, 4, 1)
    """
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)


def dense_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor without gaps whose axes are in memory in some order, the fastest last.

    Example:
        >>> dense_strides((2, 3, 4), (0, 2, 1))
        (12, 1, 3)
    """
    by_axis = dict(zip(order, contiguous_strides([shape[axis] for axis in order]), strict=True))
    return tuple(by_axis[axis] for axis in range(len(shape)))


def memory_order(value: Value) -> list[int]:
    """The order of axes in memory that suits an expression: that of the largest tensor it reads.

    Only values with an axis of tasks, of rows and two more are asked (images are channels last, see `padding`); the
    axis of tasks stays first.
    """
    natural = list(range(len(value.shape)))
    direct = [read for read in reads(value) if read.buffer is not None and not read.gathered]
    if len(value.shape) < 4 or not direct:
        return natural
    largest = max(direct, key=_distinct_elements)
    if any(size > 1 and not stride for size, stride in zip(largest.shape, largest.strides, strict=True)):
        return natural
    return [0, *sorted(natural[1:], key=lambda axis: -largest.strides[axis] if value.shape[axis] > 1 else 0)]


def _distinct_elements(read: Read) -> int:
    """Elements in memory, those that are broadcast counted once."""
    return math.prod(size for size, stride in zip(read.shape, read.strides, strict=True) if stride)


def reads(value: Value) -> list[Read]:
    """Everything an expression reads, in order: the leaves of its tree, and the indices that they are gathered by."""
    if isinstance(value, Apply):
        return [read for arg in value.args for read in reads(arg)]
    return [read for index, _, _ in value.gathered for read in reads(index)] + [value]


def map_reads(value: Value, move: Callable[[Read], Read]) -> Value:
    """The same expression with a function applied to every read; all must get the same shape."""
    if isinstance(value, Apply):
        args = tuple(map_reads(arg, move) for arg in value.args)
        return Apply(value.op, args, args[0].shape, value.dtype)
    gathered = tuple((map_reads(index, move), stride, size) for index, stride, size in value.gathered)
    return replace(move(replace(value, gathered=())), gathered=gathered)


def expand(value: Value, shape: Sequence[int]) -> Value:
    """The value broadcast to a shape, by strides of 0."""
    if value.shape == tuple(shape):
        return value
    return map_reads(value, lambda read: apply_view(read, _aten.expand.default, [list(shape)], {}))


def apply_view(read: Read, view: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The read (or list of reads) that a view operator of torch makes of a read.

    Shape, strides and offset are found by applying the operator to a tensor without data.

    Arguments:
        read: strided memory.
        view: the operator.
        args: its further arguments.
        kwargs: those by name.

    Raises:
        RuntimeError: no strides describe the result.
    """
    result = view(torch.empty_strided(read.shape, read.strides, device="meta"), *args, **kwargs)

    def moved(one: Tensor) -> Read:
        offset = read.offset + int(one.storage_offset())
        return replace(read, shape=tuple(one.shape), strides=tuple(one.stride()), offset=offset)

    return moved(result) if isinstance(result, Tensor) else [moved(one) for one in result]


def view_expression(
    value: Apply, target: Operator, args: Sequence[object], kwargs: Mapping[str, object]
) -> Value | None:
    """A view of an expression as an expression, where it only renames, permutes or drops axes; else `None`."""
    if target not in REINDEXING:
        return None
    try:
        return map_reads(value, lambda read: apply_view(read, target, args, kwargs))
    except RuntimeError:
        return None
