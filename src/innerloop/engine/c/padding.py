"""Images in memory: channels last, with the padding of zeros (halo) that convolutions read around them.

A padded convolution must not test borders in its inner loop. The operand is therefore stored in a larger buffer whose
halo is written once, and read by all its consumers: `padded` copies into one, and `store_padded` computes a value
into one at once where a convolution is going to read it (`wanted_padding`), which saves the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import fx

from ..ops import convolution, pooling  # noqa: F401 - define the operators
from .expressions import Read, Unsupported, Value, expand
from .lowering import Lowering

__all__ = [
    "OPS",
    "Shape",
    "Sizes",
    "channels_last",
    "image_padding",
    "new_padded",
    "one_task",
    "padded",
    "phases_of",
    "result_padding",
    "spatial_offset",
    "store_padded",
    "wanted_padding",
]

OPS = torch.ops.innerloop
# one number for each spatial axis
Sizes = Sequence[int]
Shape = tuple[int, ...]


class Padding(NamedTuple):
    """Zeros before and after the elements of an image along each spatial axis."""

    before: Sizes
    after: Sizes

    @property
    def key(self) -> tuple[int, ...]:
        """What a padded copy is looked up by in `Lowering.copies`."""
        return (*self.before, *self.after)


class Phase(NamedTuple):
    """Elements of a strided transposed convolution's result that have the same taps, along one axis.

    Arguments:
        where: their indices, those with one remainder by the stride.
        taps: their taps, each with its offset from the first of them to the operand.
        lowest: the least index in the operand that they read.
        highest: the largest.
    """

    where: range
    taps: list[tuple[int, int]]
    lowest: int
    highest: int


def channels_last(low: Lowering, shape: Shape, dtype: torch.dtype, *, weight: bool = False) -> Read:
    """A buffer of images, in memory (task, row, spatial, channel), or of weights, (task, taps, input, output channel).

    Arguments:
        low: the program.
        shape: `(T, N, C, *S)` of images, `(T, O, C, *K)` of weights; strides say how it is in memory.
        dtype: of the elements.
        weight: whether it is of weights.
    """
    spatial = range(3, len(shape))
    return low.new(shape, dtype, (0, *spatial, 2, 1) if weight else (0, 1, *spatial, 2))


def spatial_offset(read: Read, index: Sizes) -> int:
    """How many elements an index in space is from the first one."""
    return sum(i * stride for i, stride in zip(index, read.strides[3:], strict=True))


def one_task(read: Read) -> Read:
    """Plain images or weights as a stack of one task."""
    return replace(read, shape=(1, *read.shape), strides=(0, *read.strides))


def new_padded(low: Lowering, shape: Shape, dtype: torch.dtype, padding: Padding) -> tuple[Read, Read]:
    """A buffer for a padded image, whose zeros are written, and the interior of it, which is not."""
    sizes = [b + size + a for b, size, a in zip(padding.before, shape[3:], padding.after, strict=True)]
    whole = channels_last(low, (*shape[:3], *sizes), dtype)
    interior = whole
    for axis, (before, after) in enumerate(zip(*padding, strict=True), 3):
        size = interior.shape[axis]
        for start, end in ((0, before), (size - after, size)):
            if start < end:
                edge = _slice(interior, axis, start, end)
                low.store(edge, expand(low.constant(0, dtype), edge.shape))
        interior = _slice(interior, axis, before, size - after)
    return whole, interior


def _slice(read: Read, axis: int, start: int, end: int) -> Read:
    """Elements `start` to `end` of an axis."""
    shape = (*read.shape[:axis], end - start, *read.shape[axis + 1 :])
    return replace(read, shape=shape, offset=read.offset + start * read.strides[axis])


def padded(low: Lowering, x: Read, padding: Padding) -> Read:
    """An image with zeros around it, channels last; a copy unless it was stored so, and made once."""
    padding = Padding(padding.before, [max(0, size) for size in padding.after])
    if not any(padding.key):
        return x
    if (x, padding.key) not in low.copies:
        whole, interior = new_padded(low, x.shape, x.dtype, padding)
        low.store(interior, x)
        low.copies[x, padding.key] = whole
    return low.copies[x, padding.key]


def store_padded(low: Lowering, node: fx.Node, value: Value) -> Read:
    """A value in memory, with the zeros around it that the convolutions among its readers want."""
    padding = wanted_padding(node)
    if padding is None:
        return low.materialized(value)
    if len(value.shape) == len(padding.before) + 3:
        whole, image = new_padded(low, value.shape, value.dtype, padding)
        low.copies[image, padding.key] = whole
    else:
        whole, interior = new_padded(low, (1, *value.shape), value.dtype, padding)
        image = replace(interior, shape=interior.shape[1:], strides=interior.strides[1:])
        low.copies[one_task(image), padding.key] = whole
    low.store(image, value)
    return image


def wanted_padding(node: fx.Node) -> Padding | None:
    """The padding that the first reader which wants any wants around a value."""
    for user in node.users:
        if user.target not in (OPS.conv.default, OPS.conv_input.default, OPS.conv_weight.default):
            continue
        args: Sequence[Any] = user.args
        stride, padding, dilation = geometry = args[2:5]
        one, other, result = (n.meta["val"].shape[-len(stride) :] for n in (*args[:2], user))
        if user.target is OPS.conv.default and node is args[0]:
            wanted = image_padding(one, other, result, *geometry)
        elif user.target is OPS.conv_weight.default and node is args[1]:
            wanted = image_padding(other, result, one, *geometry)
        elif user.target is OPS.conv_input.default and node is args[0]:
            axes = zip(result, other, stride, padding, dilation, strict=True)
            wanted = result_padding([phases_of(*axis) for axis in axes], one)
        else:
            continue
        if any(wanted.key):
            return wanted
    return None


def image_padding(
    size: Sizes, taps: Sizes, out: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Padding:
    """The zeros around an image of some size that a convolution with a result of size `out` reads."""
    sizes = zip(size, taps, out, stride, padding, dilation, strict=True)
    return Padding(
        list(padding), [max(0, (q - 1) * step + (t - 1) * d + 1 - s - p) for s, t, q, step, p, d in sizes]
    )


def result_padding(phases: Sequence[Sequence[Phase]], size: Sizes) -> Padding:
    """The zeros around the operand of a transposed convolution, a gradient of some size, that it reads."""
    if not all(phases):
        raise Unsupported("a transposed convolution over nothing")
    before = [max(0, -min(phase.lowest for phase in axis)) for axis in phases]
    after = [
        max(0, max(phase.highest for phase in axis) - s + 1) for axis, s in zip(phases, size, strict=True)
    ]
    return Padding(before, after)


def phases_of(size: int, taps: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """The phases of a transposed convolution along one axis, one for each remainder by the stride.

    Example:
        >>> [phase.taps for phase in phases_of(4, 3, 2, 1, 1)]
        [[(1, 0)], [(0, 1), (2, 0)]]
    """
    phases = []
    for start in range(min(stride, size)):
        where = range(start, size, stride)
        pairs = [
            (tap, (start + padding - tap * dilation) // stride)
            for tap in range(taps)
            if (start + padding - tap * dilation) % stride == 0
        ]
        offsets = [offset for _, offset in pairs] or [0]
        phases.append(Phase(where, pairs, min(offsets), max(offsets) + len(where) - 1))
    return phases
