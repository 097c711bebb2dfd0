"""The state of a program that is being written: its buffers, and the calls of kernels so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .expressions import (
    Read,
    Unsupported,
    Value,
    contiguous,
    dense,
    expand,
    mapped,
    one_place,
    order_in_memory,
    permuted,
    reads,
)
from .loops import Pointers, Writer, loop_nest, turned, turning
from .pointwise import C_TYPES
from .schedule import Call


def _copying(pointers: Pointers, target: Read, read: Value) -> str:
    """Body of a kernel that copies; asked here, as it may be given one task's part, which is not turned."""
    if isinstance(read, Read) and turned(read):
        return turning(pointers, target, read)
    return loop_nest(pointers, target, read)


class Lowering:
    """What the rules of operators write to.

    Arguments:
        tasks: number of tasks where kernels are to run task by task, else 0.
    """

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.sizes: list[int] = []  # bytes of every buffer
        self.types: list[torch.dtype] = []
        self.calls: list[Call] = []
        self.kernels: dict[str, str] = {}  # text of a kernel -> its name
        self.functions: dict[str, str] = {}  # name of a function that kernels call -> its text
        self.sums: list[int] = []  # buffers to which each task adds its part
        self.copies: dict[tuple[Read, tuple[int, ...]], Read] = {}

    # ---- values ------------------------------------------------------------------------------------------

    def require(self, dtype: torch.dtype) -> None:
        """Refuse a type that C has not."""
        if dtype not in C_TYPES:
            raise Unsupported(str(dtype))

    def given(self, tensor: Tensor) -> Read:
        """A buffer for a tensor from outside."""
        if tensor.device.type != "cpu":
            raise Unsupported(f"a tensor on {tensor.device}")
        return self.new(tuple(tensor.shape), tensor.dtype)

    def new(self, shape: Sequence[int], dtype: torch.dtype, order: Sequence[int] | None = None) -> Read:
        """A new buffer, with its axes in memory in some order."""
        self.require(dtype)
        self.sizes.append(max(math.prod(shape), 1) * dtype.itemsize)
        self.types.append(dtype)
        strides = contiguous(shape) if order is None else dense(shape, order)
        return Read(len(self.sizes) - 1, tuple(shape), strides, 0, dtype)

    def constant(self, value: float, dtype: torch.dtype) -> Read:
        """A number as a value without memory."""
        return Read(None, (), (), value, dtype)

    def whole(self, read: Read) -> bool:
        """Whether the read is all of its buffer."""
        assert read.buffer is not None
        return self.sizes[read.buffer] == max(math.prod(read.shape), 1) * read.dtype.itemsize

    def stored(self, value: Value) -> Read:
        """The value in a buffer of its own, in order; the same where it is so already."""
        whole = isinstance(value, Read) and value.buffer is not None and not value.gathered
        if whole and isinstance(value, Read) and value.strides == contiguous(value.shape):
            return value
        if isinstance(value, Read) and turned(value):
            value = self.copied(value)
            if value.strides == contiguous(value.shape):  # else it is repeated, and is there once
                return value
        target = self.new(value.shape, value.dtype)
        self.store_into(target, value)
        return target

    def in_memory(self, value: Value) -> Read:
        """The value in some buffer, with any strides; what is repeated along an axis is there once."""
        if isinstance(value, Read) and value.buffer is not None and not value.gathered:
            return value
        small = value
        for axis, size in enumerate(value.shape):
            if size > 1 and not any(read.strides[axis] for read in reads(value)):
                small = mapped(small, lambda read, axis=axis: one_place(read, axis))  # type: ignore[misc]
        target = self.new(small.shape, value.dtype, order_in_memory(small))
        self.store_into(target, small)
        spread = expand(target, value.shape)
        assert isinstance(spread, Read)
        return spread

    def copied(self, read: Read, order: Sequence[int] | None = None) -> Read:
        """A copy in order, or with its axes in memory in some order; made once however often it is asked for."""
        order = tuple(order or range(len(read.shape)))
        if (read, order) not in self.copies:
            axes = [axis for axis in order if read.strides[axis] or read.shape[axis] == 1]
            kept = permuted(read, axes)  # what is repeated is copied once
            target = self.new(kept.shape, kept.dtype)
            self.emit(_copying, target, kept)
            strides = [0] * len(read.shape)
            for axis, stride in zip(axes, target.strides, strict=True):
                strides[axis] = stride
            self.copies[read, order] = replace(target, shape=read.shape, strides=tuple(strides))
        return self.copies[read, order]

    def in_line(self, read: Read, order: Sequence[int]) -> Read:
        """A copy whose numbers along the last axis of the order are neighbours, be they all the same one."""
        if read.strides[order[-1]]:
            return self.copied(read, order)
        target = self.new(read.shape, read.dtype, order)
        self.store_into(target, read)
        return target

    def ordered(self, value: Value, target: Read) -> Value:
        """The same expression, in which nothing large is read across the order of the target."""
        if not target.strides or target.strides[-1] == 1:
            return mapped(value, lambda read: self.copied(read) if turned(read) else read)
        order = sorted(range(len(target.shape)), key=lambda axis: -target.strides[axis])
        inner = next((axis for axis in reversed(order) if target.shape[axis] > 1), -1)

        def along(read: Read) -> Read:
            across = read.buffer is not None and not read.gathered and read.strides[inner] > 1
            return self.copied(read, order) if across else read

        return mapped(value, along)

    def store_into(self, target: Read, value: Value) -> None:
        """Compute a value into memory."""
        if math.prod(value.shape):
            value = self.ordered(value, target)
            self.emit(loop_nest, target, value)

    # ---- calls -------------------------------------------------------------------------------------------

    def emit(
        self, write: Writer, target: Read, *values: Value, split: bool = True, adds: bool = False
    ) -> None:
        """Add a call of the kernel that `write` writes.

        Arguments:
            write: of the pointers, the target and the values, or of the parts of them that are one task's.
            target: what is written.
            values: what is read.
            split: whether, where the leading axis is that of tasks, the kernel does the same for each.
            adds: whether the kernel adds each task's part to one target.
        """
        split = adds or (split and self.by_task(target) and all(map(self.by_task, values)))
        split = split and (adds or all(value.shape[0] == target.shape[0] for value in values))
        if adds and target.buffer is not None:
            self.sums.append(target.buffer)
        if split:
            target = target if adds else self._part(target)
            values = tuple(mapped(value, self._part) for value in values)
        found = [read for value in values for read in reads(value)]
        pointers = Pointers(target, found)
        body = write(pointers, target, *values)
        name = self.kernels.setdefault(body, f"k{len(self.kernels)}")
        places = tuple(
            (buffer, offset * self.types[buffer].itemsize, step * self.types[buffer].itemsize)
            for buffer, offset, step in pointers.places()
        )
        operands = [read for read in (target, *found) if read.buffer is not None]
        crossing = {read.buffer for read in operands if not self._inside(read)}
        aligned = frozenset(buffer for buffer, _, _ in places if buffer not in crossing)
        self.calls.append(Call(name, places, split, aligned))

    def by_task(self, value: Value) -> bool:
        """Whether kernels run task by task, and the leading axis can be cut into one part for each."""

        def cut(read: Read) -> bool:
            rows = read.shape[0] if read.shape else 0
            return bool(rows) and rows % self.tasks == 0 and (read.buffer is not None or not read.strides[0])

        return bool(self.tasks) and all(map(cut, reads(value)))

    def _part(self, read: Read) -> Read:
        rows = read.shape[0] // self.tasks
        step = rows * read.strides[0] if read.buffer is not None else 0
        return replace(read, shape=(rows, *read.shape[1:]), step=step)

    def _inside(self, read: Read) -> bool:
        """Whether a task touches its own part of the buffer alone."""
        assert read.buffer is not None
        size = self.sizes[read.buffer] // read.dtype.itemsize
        return read.step * self.tasks == size and read.offset + read.last() < read.step
