"""The state of a program that is being written: its buffers, and the kernel calls so far.

Rules of operators get a `Lowering`. They take the values of operands, ask for them in the form that a kernel needs
(`materialized`, `contiguous`, `copied`, ...), make buffers (`new`) and add calls (`emit`). Nothing is placed in memory
yet: `schedule` does that once all calls are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Concatenate

import torch
from torch import Tensor, fx

from .expressions import (
    Read,
    Unsupported,
    Value,
    contiguous_strides,
    dense_strides,
    expand,
    map_reads,
    memory_order,
    reads,
)
from .loops import Pointers, Template, is_transposed, loop_nest, transpose_copy
from .pointwise import C_TYPES
from .schedule import Call

__all__ = ["Lowering", "Rule"]


def _copy(pointers: Pointers, target: Read, read: Value) -> str:
    """Template of a copy; which one is asked here, as it may be given one task's part, which is not transposed."""
    if isinstance(read, Read) and is_transposed(read):
        return transpose_copy(pointers, target, read)
    return loop_nest(pointers, target, read)


class Lowering:
    """What the rules of operators write to.

    Arguments:
        tasks: number of tasks where kernels are to run task by task, else 0.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.buffer_bytes: list[int] = []
        self.dtypes: list[torch.dtype] = []  # of every buffer
        self.calls: list[Call] = []
        self.kernels: dict[str, str] = {}  # text of a kernel -> its name
        self.functions: dict[str, str] = {}  # name of a function that kernels call -> its text
        self.accumulators: list[int] = []  # buffers to which each task adds its part
        # copies of a read with its axes in memory in some order, or with some halo of zeros
        self.copies: dict[tuple[Read, tuple[int, ...]], Read] = {}

    def require(self, dtype: torch.dtype) -> None:
        """Refuse a type that C has not."""
        if dtype not in C_TYPES:
            raise Unsupported(str(dtype))

    def input_buffer(self, tensor: Tensor) -> Read:
        """A buffer for a tensor from outside."""
        if tensor.device.type != "cpu":
            raise Unsupported(f"a tensor on {tensor.device}")
        return self.new(tuple(tensor.shape), tensor.dtype)

    def new(self, shape: Sequence[int], dtype: torch.dtype, order: Sequence[int] | None = None) -> Read:
        """A new buffer without gaps, contiguous or with its axes in memory in some order."""
        self.require(dtype)
        self.buffer_bytes.append(max(math.prod(shape), 1) * dtype.itemsize)
        self.dtypes.append(dtype)
        strides = contiguous_strides(shape) if order is None else dense_strides(shape, order)
        return Read(len(self.buffer_bytes) - 1, tuple(shape), strides, 0, dtype)

    def constant(self, value: float, dtype: torch.dtype) -> Read:
        """A number as a value without memory."""
        return Read(None, (), (), value, dtype)

    def fills_buffer(self, read: Read) -> bool:
        """Whether the read is all of its buffer."""
        assert read.buffer is not None
        return self.buffer_bytes[read.buffer] == max(math.prod(read.shape), 1) * read.dtype.itemsize

    def materialized(self, value: Value) -> Read:
        """The value in some buffer, with any strides; what is broadcast along an axis is stored once."""
        if isinstance(value, Read) and value.buffer is not None and not value.gathered:
            return value
        small = value
        for axis, size in enumerate(value.shape):
            if size > 1 and not any(read.strides[axis] for read in reads(value)):
                small = map_reads(small, lambda read, axis=axis: read.first_along(axis))  # type: ignore[misc]
        target = self.new(small.shape, value.dtype, memory_order(small))
        self.store(target, small)
        spread = expand(target, value.shape)
        assert isinstance(spread, Read)
        return spread

    def contiguous(self, value: Value) -> Read:
        """The value in a contiguous buffer; the same value where it is so already."""
        direct = isinstance(value, Read) and value.buffer is not None and not value.gathered
        if direct and isinstance(value, Read) and value.strides == contiguous_strides(value.shape):
            return value
        if isinstance(value, Read) and is_transposed(value):
            value = self.copied(value)
            if value.strides == contiguous_strides(value.shape):  # else it is broadcast, and stored once
                return value
        target = self.new(value.shape, value.dtype)
        self.store(target, value)
        return target

    def copied(self, read: Read, order: Sequence[int] | None = None) -> Read:
        """A copy, contiguous or with its axes in memory in some order; made once however often it is asked for."""
        order = tuple(order or range(len(read.shape)))
        if (read, order) not in self.copies:
            axes = [axis for axis in order if read.strides[axis] or read.shape[axis] == 1]
            stored = read.permute(axes)  # what is broadcast is copied once
            target = self.new(stored.shape, stored.dtype)
            self.emit(_copy, target, stored)
            strides = [0] * len(read.shape)
            for axis, stride in zip(axes, target.strides, strict=True):
                strides[axis] = stride
            self.copies[read, order] = replace(target, shape=read.shape, strides=tuple(strides))
        return self.copies[read, order]

    def unit_stride(self, read: Read, order: Sequence[int]) -> Read:
        """A copy with unit stride along the last axis of the order, even where that axis is broadcast."""
        if read.strides[order[-1]]:
            return self.copied(read, order)
        target = self.new(read.shape, read.dtype, order)
        self.store(target, read)
        return target

    def coalesced(self, value: Value, target: Read) -> Value:
        """The same expression, in which nothing large is read across the memory order of the target.

        What would be is copied into that order first: transposed matrices, and images whose channels are not last.
        """
        if not target.strides or target.strides[-1] == 1:
            return map_reads(value, lambda read: self.copied(read) if is_transposed(read) else read)
        order = sorted(range(len(target.shape)), key=lambda axis: -target.strides[axis])
        inner = next((axis for axis in reversed(order) if target.shape[axis] > 1), -1)

        def along(read: Read) -> Read:
            across = read.buffer is not None and not read.gathered and read.strides[inner] > 1
            return self.copied(read, order) if across else read

        return map_reads(value, along)

    def store(self, target: Read, value: Value) -> None:
        """Compute a value into memory: where a fused expression becomes a loop nest."""
        if math.prod(value.shape):
            value = self.coalesced(value, target)
            self.emit(loop_nest, target, value)

    def emit(
        self, template: Template, target: Read, *values: Value, split: bool = True, adds: bool = False
    ) -> None:
        """Add a call of the kernel that a template writes.

        Arguments:
            template: of the pointers, the target and the values, or of the parts of them that are one task's.
            target: what is written.
            values: what is read.
            split: whether, where the leading axis is that of tasks, the kernel does the same for each.
            adds: whether the kernel adds each task's part to one target.
        """
        split = adds or (split and self.splits_by_task(target) and all(map(self.splits_by_task, values)))
        split = split and (adds or all(value.shape[0] == target.shape[0] for value in values))
        if adds and target.buffer is not None:
            self.accumulators.append(target.buffer)
        if split:
            target = target if adds else self._task_part(target)
            values = tuple(map_reads(value, self._task_part) for value in values)
        operands = [read for value in values for read in reads(value)]
        pointers = Pointers(target, operands)
        body = template(pointers, target, *values)
        name = self.kernels.setdefault(body, f"k{len(self.kernels)}")
        arguments = tuple(
            (buffer, offset * self.dtypes[buffer].itemsize, stride * self.dtypes[buffer].itemsize)
            for buffer, offset, stride in pointers.arguments()
        )
        in_buffers = [read for read in (target, *operands) if read.buffer is not None]
        crossing = {read.buffer for read in in_buffers if not self._stays_in_task(read)}
        aligned = frozenset(buffer for buffer, _, _ in arguments if buffer not in crossing)
        self.calls.append(Call(name, arguments, split, aligned))

    def add_over_tasks(self, template: Template, target: Read, value: Value) -> None:
        """Sum the parts of all tasks in an accumulator of a wider type (there may be a million), and store it.

        Arguments:
            template: adds the part of one task.
            target: the sum.
            value: what is summed, the axis of tasks first.
        """
        wide = torch.float64 if target.dtype == torch.float32 else target.dtype
        total = replace(self.new(target.shape, wide), strides=target.strides)
        self.emit(loop_nest, total, expand(self.constant(0, wide), total.shape), split=False)
        self.emit(template, total, value, adds=True)
        self.emit(loop_nest, target, total, split=False)

    def splits_by_task(self, value: Value) -> bool:
        """Whether kernels run task by task, and the leading axis can be cut into one part for each."""

        def splits(read: Read) -> bool:
            rows = read.shape[0] if read.shape else 0
            return bool(rows) and rows % self.tasks == 0 and (read.buffer is not None or not read.strides[0])

        return bool(self.tasks) and all(map(splits, reads(value)))

    def _task_part(self, read: Read) -> Read:
        """The part of the first task; `task_stride` leads to that of the next one."""
        rows = read.shape[0] // self.tasks
        stride = rows * read.strides[0] if read.buffer is not None else 0
        return replace(read, shape=(rows, *read.shape[1:]), task_stride=stride)

    def _stays_in_task(self, read: Read) -> bool:
        """Whether a task touches its own part of the buffer alone."""
        assert read.buffer is not None
        size = self.buffer_bytes[read.buffer] // read.dtype.itemsize
        return read.task_stride * self.tasks == size and read.offset + read.last_offset() < read.task_stride


# how an operator is lowered: from its node and the values of its arguments to that of its result (several for some)
Rule = Callable[Concatenate[Lowering, fx.Node, ...], Value | Sequence[Value]]
