"""The three operators of a convolution in C, channels last in memory.

Each is an `Indirect` product for every task, with the places of the image or of the kernel in its tables. Borders of
zeros are written around the operand that needs them (`frames`), once for all its readers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from .borders import (
    OPS,
    Place,
    Sizes,
    around_image,
    around_result,
    bordered,
    channels_last,
    one_task,
    phases_of,
    place_at,
)
from .builder import Lowering
from .expressions import Read, Unsupported, Value, expand
from .indirect import Indirect, blocks, indirect
from .loops import FLOATS, Pointers, function
from .pointwise import C_TYPES

# places of one table; larger images have a table for one image, and a loop around it
_LONGEST = 8192


def _conv(
    low: Lowering, node: fx.Node, x: Value, w: Value, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Value:
    return _by_task(low, node, _forward, x, w, (stride, padding, dilation))


def _conv_input(
    low: Lowering,
    node: fx.Node,
    g: Value,
    w: Value,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    size: Sizes,
) -> Value:
    return _by_task(low, node, _to_input, g, w, (stride, padding, dilation))


def _conv_weight(
    low: Lowering,
    node: fx.Node,
    g: Value,
    x: Value,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    size: Sizes,
) -> Value:
    return _by_task(low, node, _to_weight, g, x, (stride, padding, dilation))


def _by_task(
    low: Lowering,
    node: fx.Node,
    rule: Callable[..., Read],
    one: Value,
    other: Value,
    how: tuple[Sizes, Sizes, Sizes],
) -> Value:
    """Apply a rule to stacked operands; what is plain is a stack of one, or of the tasks among its rows."""
    first, second = low.in_memory(one), low.in_memory(other)
    if first.dtype not in FLOATS:
        raise Unsupported(f"a convolution of {first.dtype}")
    shape = tuple(node.meta["val"].shape)
    if not math.prod(shape) or not math.prod(first.shape) or not math.prod(second.shape):
        return low.in_memory(expand(low.constant(0, first.dtype), shape))
    if len(first.shape) == len(how[0]) + 3:
        return rule(low, first, second, shape, *how)
    found = rule(low, one_task(first), one_task(second), (1, *shape), *how)
    return replace(found, shape=found.shape[1:], strides=found.strides[1:])


# ---- the rules -------------------------------------------------------------------------------------------------


def _forward(
    low: Lowering, x: Read, w: Read, shape: Place, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Read:
    """Rows are places of the result; summands are taps and channels of the input."""
    target = channels_last(low, shape, x.dtype)
    taps, places = w.shape[3:], shape[3:]
    x = bordered(low, x, *around_image(x.shape[3:], taps, places, stride, padding, dilation))
    w = w if w.strides[1] == 1 else low.in_line(w, _order(w, 2, 1))

    def write(pointers: Pointers, target: Read, x: Read, w: Read) -> str:
        images, group = _images(x.shape[1], math.prod(places))
        spots = list(itertools.product(range(images), *map(range, places)))
        inner = list(itertools.product(*map(range, taps), range(x.shape[2])))
        product = Indirect(
            tuple(n * x.strides[1] + place_at(x, _times(p, stride)) for n, *p in spots),
            tuple(c * x.strides[2] + place_at(x, _times(t, dilation)) for *t, c in inner),
            tuple(c * w.strides[2] + place_at(w, t) for *t, c in inner),
            tuple(n * target.strides[1] + place_at(target, p) for n, *p in spots),
            target.shape[2],
            (_each_task(target, x, w), (group, images * x.strides[1], 0, images * target.strides[1])),
        )
        return _written(low, pointers, [product], x, w)

    low.emit(write, target, x, w)
    return target


def _to_input(
    low: Lowering, g: Read, w: Read, shape: Place, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Read:
    """Rows are places of the input; those with the same remainders by the stride have the same taps."""
    target = channels_last(low, shape, g.dtype)
    taps, places = w.shape[3:], shape[3:]
    w = w if w.strides[2] == 1 else low.in_line(w, _order(w, 1, 2))
    sizes = zip(places, taps, stride, padding, dilation, strict=True)
    phases = [phases_of(*given) for given in sizes]
    before, after = around_result(phases, g.shape[3:])
    g = bordered(low, g, before, after)

    def write(pointers: Pointers, target: Read, g: Read, w: Read) -> str:
        images, group = _images(g.shape[1], math.prod(places))
        around = (_each_task(target, g, w), (group, images * g.strides[1], 0, images * target.strides[1]))
        products = []
        for combined in itertools.product(*phases):
            spots = list(itertools.product(range(images), *(where for where, _, _, _ in combined)))
            inner: list[Any] = list(
                itertools.product(*(pairs for _, pairs, _, _ in combined), range(g.shape[2]))
            )
            starts = [where[0] if where else 0 for where, _, _, _ in combined]
            rows = []
            for n, *p in spots:
                moved = [(a - s) // step + b for a, s, step, b in zip(p, starts, stride, before, strict=True)]
                rows.append(n * g.strides[1] + place_at(g, moved))
            product = Indirect(
                tuple(rows),
                tuple(o * g.strides[2] + place_at(g, [away for _, away in t]) for *t, o in inner),
                tuple(o * w.strides[1] + place_at(w, [tap for tap, _ in t]) for *t, o in inner),
                tuple(n * target.strides[1] + place_at(target, p) for n, *p in spots),
                target.shape[2],
                around,
            )
            products.append(product)
        return _written(low, pointers, products, g, w)

    low.emit(write, target, g, w)
    return target


def _to_weight(
    low: Lowering, g: Read, x: Read, shape: Place, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Read:
    """Rows are taps and channels of the input; summands are images and places of the result."""
    target = channels_last(low, shape, g.dtype, weight=True)
    taps, places = shape[3:], g.shape[3:]
    x = bordered(low, x, *around_image(x.shape[3:], taps, places, stride, padding, dilation))
    g = g if g.strides[2] == 1 or g.shape[2] == 1 else low.in_line(g, _order(g, 1, 2))

    def write(pointers: Pointers, target: Read, g: Read, x: Read) -> str:
        images, group = _images(x.shape[1], math.prod(places))
        spots = list(itertools.product(*map(range, taps), range(x.shape[2])))
        inner = list(itertools.product(range(images), *map(range, places)))
        around = (_each_task(target, x, g), (group, images * x.strides[1], images * g.strides[1], 0))
        product = Indirect(
            tuple(c * x.strides[2] + place_at(x, _times(t, dilation)) for *t, c in spots),
            tuple(n * x.strides[1] + place_at(x, _times(p, stride)) for n, *p in inner),
            tuple(n * g.strides[1] + place_at(g, p) for n, *p in inner),
            tuple(c * target.strides[2] + place_at(target, t) for *t, c in spots),
            target.shape[1],
            around,
        )
        return _written(low, pointers, [product], x, g)

    low.emit(write, target, g, x)
    return target


def _written(low: Lowering, pointers: Pointers, products: Sequence[Indirect], a: Read, b: Read) -> str:
    typed = C_TYPES[a.dtype]
    for product in products:
        low.functions |= blocks(product, typed)
    texts = [indirect(product, typed, pointers.name(a), pointers.name(b)) for product in products]
    return function(pointers, "\n".join(texts))


# ---- layouts ---------------------------------------------------------------------------------------------------


def _order(read: Read, *last: int) -> tuple[int, ...]:
    """Axes with the places before the two last ones."""
    return (0, *range(3, len(read.shape)), *last)


def _images(count: int, places: int) -> tuple[int, int]:
    """How many images one table covers, and how often it is used."""
    images = max((n for n in range(1, count + 1) if count % n == 0 and n * places <= _LONGEST), default=1)
    return images, count // images


def _each_task(target: Read, one: Read, other: Read) -> tuple[int, int, int, int]:
    return (target.shape[0], one.strides[0], other.strides[0], target.strides[0])


def _times(places: Sizes, factors: Sizes) -> list[int]:
    return [place * factor for place, factor in zip(places, factors, strict=True)]


SPATIAL: dict[Any, Callable[..., Any]] = {
    OPS.conv.default: _conv,
    OPS.conv_input.default: _conv_input,
    OPS.conv_weight.default: _conv_weight,
}
