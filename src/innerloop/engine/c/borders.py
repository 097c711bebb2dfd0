"""Images in memory: channels last, with the zeros around them that convolutions read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..ops import convolution, pooling  # noqa: F401 - define the operators
from .builder import Lowering
from .expressions import Read, Value, expand

OPS = torch.ops.innerloop

Sizes = Sequence[int]
Place = tuple[int, ...]
# places of the input with one remainder, their taps with the way to the result, and the ends of these ways
Phase = tuple[range, list[tuple[int, int]], int, int]


def channels_last(low: Lowering, shape: Place, dtype: torch.dtype, *, weight: bool = False) -> Read:
    """Images as (task, row, places, channel), weights as (task, taps, input channel, output channel)."""
    places = range(3, len(shape))
    return low.new(shape, dtype, (0, *places, 2, 1) if weight else (0, 1, *places, 2))


def place_at(read: Read, places: Sequence[int]) -> int:
    """How far a place is from the first one."""
    return sum(place * stride for place, stride in zip(places, read.strides[3:], strict=True))


def framed(low: Lowering, shape: Place, dtype: torch.dtype, before: Sizes, after: Sizes) -> tuple[Read, Read]:
    """A buffer for an image with zeros around it, which are written, and the inner part of it, which is not."""
    places = [b + size + a for b, size, a in zip(before, shape[3:], after, strict=True)]
    whole = channels_last(low, (*shape[:3], *places), dtype)
    inside = whole
    for axis, (start, end) in enumerate(zip(before, after, strict=True), 3):
        size = inside.shape[axis]
        for first, last in ((0, start), (size - end, size)):
            if first < last:
                edge = _cut(inside, axis, first, last)
                low.store_into(edge, expand(low.constant(0, dtype), edge.shape))
        inside = _cut(inside, axis, start, size - end)
    return whole, inside


def _cut(read: Read, axis: int, start: int, end: int) -> Read:
    """Places `start` to `end` of an axis."""
    shape = (*read.shape[:axis], end - start, *read.shape[axis + 1 :])
    return replace(read, shape=shape, offset=read.offset + start * read.strides[axis])


def bordered(low: Lowering, x: Read, before: Sizes, after: Sizes) -> Read:
    """An image with zeros around it, channels last."""
    after = [max(0, size) for size in after]
    if not any(before) and not any(after):
        return x
    if (x, (*before, *after)) not in low.copies:
        whole, inside = framed(low, x.shape, x.dtype, before, after)
        low.store_into(inside, x)
        low.copies[x, (*before, *after)] = whole
    return low.copies[x, (*before, *after)]


def in_frame(low: Lowering, node: fx.Node, value: Value) -> Read:
    """A value in memory, with the zeros around it that convolutions want."""
    around = frame(node)
    if around is None:
        return low.in_memory(value)
    if len(value.shape) == len(around[0]) + 3:
        whole, found = framed(low, value.shape, value.dtype, *around)
        low.copies[found, (*around[0], *around[1])] = whole
    else:
        whole, inside = framed(low, (1, *value.shape), value.dtype, *around)
        found = replace(inside, shape=inside.shape[1:], strides=inside.strides[1:])
        low.copies[one_task(found), (*around[0], *around[1])] = whole
    low.store_into(found, value)
    return found


def one_task(read: Read) -> Read:
    """Plain images or weights as a stack of one."""
    return replace(read, shape=(1, *read.shape), strides=(0, *read.strides))


def frame(node: fx.Node) -> tuple[Sizes, Sizes] | None:
    """The zeros that the first reader which wants any wants before and after the places of a value."""
    for user in node.users:
        if user.target not in (OPS.conv.default, OPS.conv_input.default, OPS.conv_weight.default):
            continue
        given: Sequence[Any] = user.args
        stride, padding, dilation = how = given[2:5]
        one, other, found = (n.meta["val"].shape[-len(stride) :] for n in (*given[:2], user))
        if user.target is OPS.conv.default and node is user.args[0]:
            around = around_image(one, other, found, *how)
        elif user.target is OPS.conv_weight.default and node is user.args[1]:
            around = around_image(other, found, one, *how)
        elif user.target is OPS.conv_input.default and node is user.args[0]:
            axes = zip(found, other, stride, padding, dilation, strict=True)
            around = around_result([phases_of(*axis) for axis in axes], one)
        else:
            continue
        if any(around[0]) or any(around[1]):
            return around
    return None


def around_image(
    size: Sizes, taps: Sizes, places: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes
) -> tuple[list[int], list[int]]:
    """Zeros before and after the places of an image that a convolution reads."""
    sizes = zip(size, taps, places, stride, padding, dilation, strict=True)
    return list(padding), [max(0, (q - 1) * step + (t - 1) * d + 1 - s - p) for s, t, q, step, p, d in sizes]


def around_result(phases: Sequence[Sequence[Phase]], size: Sizes) -> tuple[list[int], list[int]]:
    """Zeros before and after the places of the result that a transposed convolution reads."""
    before = [max(0, -min(low for _, _, low, _ in phase)) for phase in phases]
    after = [
        max(0, max(high for _, _, _, high in phase) - s + 1) for phase, s in zip(phases, size, strict=True)
    ]
    return before, after


def phases_of(size: int, taps: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """Places of the input by their remainder: the places, their taps with the way to the result, and its ends."""
    phases = []
    for start in range(min(stride, size)):
        where = range(start, size, stride)
        pairs = [
            (tap, (start + padding - tap * dilation) // stride)
            for tap in range(taps)
            if (start + padding - tap * dilation) % stride == 0
        ]
        ways = [away for _, away in pairs] or [0]
        phases.append((where, pairs, min(ways), max(ways) + len(where) - 1))
    return phases
