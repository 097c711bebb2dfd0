"""Rules of the three convolution operators: each is an indirect product for every task, channels last in memory.

With channels last, the channels of one element in space are a row with unit stride, which is what an `Indirect` product
wants of `B` and the result. The geometry (stride, padding, dilation, taps) goes into its tables of offsets, so that one
inner loop serves all of them; padding is zeros in memory (`padding`).

| operator | rows of the result | summands | columns |
|---|---|---|---|
| `conv` | images and output elements | taps, input channels | output channels |
| `conv_input` | images and input elements, phase by phase | taps of the phase, output channels | input channels |
| `conv_weight` | taps, input channels | images and output elements | output channels |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import fx

from .expressions import Read, Unsupported, Value, expand
from .indirect import Indirect, indirect, tile_functions
from .loops import FLOATS, Pointers, c_function
from .lowering import Lowering, Rule
from .padding import (
    OPS,
    Shape,
    Sizes,
    channels_last,
    image_padding,
    one_task,
    padded,
    phases_of,
    result_padding,
    spatial_offset,
)
from .pointwise import C_TYPES, Operator

__all__ = ["CONVOLUTIONS"]

# entries of one table; with more images there is a table for some of them, and a loop around it
_LONGEST = 8192


def _stacked(rule: Callable[..., Read]) -> Rule:
    """A rule for operands with an axis of tasks as one for both forms: what is plain is a stack of one task.

    Arguments:
        rule: of the two operands in memory, the shape of the result, and stride, padding and dilation.
    """

    def lowered(low: Lowering, node: fx.Node, one: Value, other: Value, *sizes: Sizes) -> Value:
        geometry = sizes[:3]  # the size that follows is in the shape of the result
        first, second = low.materialized(one), low.materialized(other)
        if first.dtype not in FLOATS:
            raise Unsupported(f"a convolution of {first.dtype}")
        shape = tuple(node.meta["val"].shape)
        if not math.prod(shape) or not math.prod(first.shape) or not math.prod(second.shape):
            return low.materialized(expand(low.constant(0, first.dtype), shape))
        if len(first.shape) == len(geometry[0]) + 3:
            return rule(low, first, second, shape, *geometry)
        result = rule(low, one_task(first), one_task(second), (1, *shape), *geometry)
        return replace(result, shape=result.shape[1:], strides=result.strides[1:])

    return lowered


def _forward(
    low: Lowering, x: Read, w: Read, shape: Shape, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Read:
    """`conv`: rows are output elements; summands are taps and input channels."""
    target = channels_last(low, shape, x.dtype)
    taps, spatial = w.shape[3:], shape[3:]
    x = padded(low, x, image_padding(x.shape[3:], taps, spatial, stride, padding, dilation))
    w = w if w.strides[1] == 1 else low.unit_stride(w, _order(w, 2, 1))

    def write(pointers: Pointers, target: Read, x: Read, w: Read) -> str:
        images, groups = _images_per_table(x.shape[1], math.prod(spatial))
        rows = list(itertools.product(range(images), *map(range, spatial)))
        summands = list(itertools.product(*map(range, taps), range(x.shape[2])))
        product = Indirect(
            tuple(n * x.strides[1] + spatial_offset(x, _times(p, stride)) for n, *p in rows),
            tuple(c * x.strides[2] + spatial_offset(x, _times(t, dilation)) for *t, c in summands),
            tuple(c * w.strides[2] + spatial_offset(w, t) for *t, c in summands),
            tuple(n * target.strides[1] + spatial_offset(target, p) for n, *p in rows),
            target.shape[2],
            (_task_loop(target, x, w), (groups, images * x.strides[1], 0, images * target.strides[1])),
        )
        return _products(low, pointers, [product], x, w)

    low.emit(write, target, x, w)
    return target


def _by_input(
    low: Lowering, g: Read, w: Read, shape: Shape, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Read:
    """`conv_input`: rows are input elements, a product for each phase, whose elements have the same taps."""
    target = channels_last(low, shape, g.dtype)
    taps, spatial = w.shape[3:], shape[3:]
    w = w if w.strides[2] == 1 else low.unit_stride(w, _order(w, 1, 2))
    sizes = zip(spatial, taps, stride, padding, dilation, strict=True)
    phases = [phases_of(*axis) for axis in sizes]
    around = result_padding(phases, g.shape[3:])
    g = padded(low, g, around)

    def first_read(index: Sizes, starts: Sizes) -> list[int]:
        axes = zip(index, starts, stride, around.before, strict=True)
        return [(i - start) // step + before for i, start, step, before in axes]

    def write(pointers: Pointers, target: Read, g: Read, w: Read) -> str:
        images, groups = _images_per_table(g.shape[1], math.prod(spatial))
        outer = (_task_loop(target, g, w), (groups, images * g.strides[1], 0, images * target.strides[1]))
        products = []
        for phase in itertools.product(*phases):
            rows = list(itertools.product(range(images), *(axis.where for axis in phase)))
            pairs = itertools.product(*(axis.taps for axis in phase))
            summands = [(list(tap), o) for tap in pairs for o in range(g.shape[2])]
            starts = [axis.where[0] if axis.where else 0 for axis in phase]
            product = Indirect(
                tuple(n * g.strides[1] + spatial_offset(g, first_read(p, starts)) for n, *p in rows),
                tuple(o * g.strides[2] + spatial_offset(g, [offset for _, offset in t]) for t, o in summands),
                tuple(o * w.strides[1] + spatial_offset(w, [tap for tap, _ in t]) for t, o in summands),
                tuple(n * target.strides[1] + spatial_offset(target, p) for n, *p in rows),
                target.shape[2],
                outer,
            )
            products.append(product)
        return _products(low, pointers, products, g, w)

    low.emit(write, target, g, w)
    return target


def _by_weight(
    low: Lowering, g: Read, x: Read, shape: Shape, stride: Sizes, padding: Sizes, dilation: Sizes
) -> Read:
    """`conv_weight`: rows are taps and input channels; summands are images and output elements."""
    target = channels_last(low, shape, g.dtype, weight=True)
    taps, spatial = shape[3:], g.shape[3:]
    x = padded(low, x, image_padding(x.shape[3:], taps, spatial, stride, padding, dilation))
    g = g if g.strides[2] == 1 or g.shape[2] == 1 else low.unit_stride(g, _order(g, 1, 2))

    def write(pointers: Pointers, target: Read, g: Read, x: Read) -> str:
        images, groups = _images_per_table(x.shape[1], math.prod(spatial))
        rows = list(itertools.product(*map(range, taps), range(x.shape[2])))
        summands = list(itertools.product(range(images), *map(range, spatial)))
        product = Indirect(
            tuple(c * x.strides[2] + spatial_offset(x, _times(t, dilation)) for *t, c in rows),
            tuple(n * x.strides[1] + spatial_offset(x, _times(p, stride)) for n, *p in summands),
            tuple(n * g.strides[1] + spatial_offset(g, p) for n, *p in summands),
            tuple(c * target.strides[2] + spatial_offset(target, t) for *t, c in rows),
            target.shape[1],
            (_task_loop(target, x, g), (groups, images * x.strides[1], images * g.strides[1], 0)),
        )
        return _products(low, pointers, [product], x, g)

    low.emit(write, target, g, x)
    return target


def _products(low: Lowering, pointers: Pointers, products: Sequence[Indirect], a: Read, b: Read) -> str:
    """A kernel that does some products one after the other; the functions that it calls go to the program."""
    typed = C_TYPES[a.dtype]
    for product in products:
        low.functions |= tile_functions(product, typed)
    texts = [indirect(product, typed, pointers.name(a), pointers.name(b)) for product in products]
    return c_function(pointers, "\n".join(texts))


def _order(read: Read, *last: int) -> tuple[int, ...]:
    """Memory order with the spatial axes before the two last ones."""
    return (0, *range(3, len(read.shape)), *last)


def _images_per_table(count: int, elements: int) -> tuple[int, int]:
    """How many images one table covers, and how often it is used."""
    images = max((n for n in range(1, count + 1) if count % n == 0 and n * elements <= _LONGEST), default=1)
    return images, count // images


def _task_loop(target: Read, one: Read, other: Read) -> tuple[int, int, int, int]:
    """The loop over tasks, for `Indirect.outer`."""
    return (target.shape[0], one.strides[0], other.strides[0], target.strides[0])


def _times(index: Sizes, factors: Sizes) -> list[int]:
    return [i * factor for i, factor in zip(index, factors, strict=True)]


CONVOLUTIONS: dict[Operator, Rule] = {
    OPS.conv.default: _stacked(_forward),
    OPS.conv_input.default: _stacked(_by_input),
    OPS.conv_weight.default: _stacked(_by_weight),
}
