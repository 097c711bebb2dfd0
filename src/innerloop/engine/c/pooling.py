"""Rules of max-pooling: argmax, gather and scatter, each one loop over windows.

The loops run over windows in the memory order of the pooled side (channels last where a convolution is near), the taps
of a window unrolled, so that the innermost loop goes along channels as vector code, without branches: the index of a
tap selects by comparison. Scatter adds where windows overlap, and then runs without vectors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from torch import fx

from .expressions import Read, Unsupported, Value, expand, memory_order
from .loops import FLOATS, Pointers, Template, c_function, flat_index, loops, merge_axes
from .lowering import Lowering, Rule
from .padding import OPS, Sizes, new_padded, wanted_padding
from .pointwise import C_TYPES, Operator

__all__ = ["POOLING"]

# body of the loop: of the offset of each tap, the type of the image, and the flat indices in what is written and read
Body = Callable[[Sequence[int], str, str, str], str]


def _argmax(low: Lowering, node: fx.Node, x: Value, *geometry: Sizes) -> Value:
    """The largest tap of each window; NaN wins, as in torch."""
    image = _image(low, x)
    target = low.new(tuple(node.meta["val"].shape), node.meta["val"].dtype, memory_order(image))

    def body(offsets: Sequence[int], typed: str, o: str, i: str) -> str:
        lines = [f"{typed} best = a0[{i}];", "int32_t tap = 0;"]
        for tap, offset in enumerate(offsets[1:], 1):
            lines += [f"{{ {typed} v = a0[{i} + {offset}]; int c = (v > best) | (v != v);"]
            lines += [f"best = c ? v : best; tap = c ? {tap} : tap; }}"]
        return "\n".join([*lines, f"o[{o}] = tap;"])

    if math.prod(target.shape):
        low.emit(_windows(body, *geometry), target, image)
    return target


def _gather(low: Lowering, node: fx.Node, x: Value, tap: Value, *geometry: Sizes) -> Value:
    """The element at a tap of each window, with padding around the result where a convolution reads it next."""
    image, taps = _image(low, x), low.materialized(tap)
    shape, padding = tuple(node.meta["val"].shape), wanted_padding(node)
    if padding is not None and len(shape) == len(geometry[0]) + 3:
        whole, target = new_padded(low, shape, image.dtype, padding)
        low.copies[target, padding.key] = whole
    else:
        target = low.new(shape, image.dtype, memory_order(taps))

    def body(offsets: Sequence[int], typed: str, o: str, i: str) -> str:
        lines = [f"{typed} v = a0[{i}];"]
        lines += [f"v = tap == {tap} ? a0[{i} + {offset}] : v;" for tap, offset in enumerate(offsets[1:], 1)]
        return "\n".join([*lines, f"o[{o}] = v;"])

    if math.prod(shape):
        low.emit(_windows(body, *geometry), target, image, taps)
    return target


def _scatter(low: Lowering, node: fx.Node, g: Value, tap: Value, *sizes: Sizes) -> Value:
    """Elements at a tap of each window, zeros elsewhere.

    Windows that do not overlap are written whole, and elements between windows beforehand; others are added up.
    """
    kernel, stride, dilation, size = sizes
    given, taps = _image(low, g), low.materialized(tap)
    shape = tuple(node.meta["val"].shape)
    target = low.new(shape, given.dtype, memory_order(taps))
    disjoint = all(s >= d * (k - 1) + 1 for k, s, d in zip(kernel, stride, dilation, strict=True))
    windows = taps.shape[-len(kernel) :]
    if not disjoint or any(k * n != s for k, n, s in zip(kernel, windows, size, strict=True)):
        low.store(target, expand(low.constant(0, given.dtype), shape))
    sign = "=" if disjoint else "+="

    def body(offsets: Sequence[int], typed: str, o: str, i: str) -> str:
        lines = [f"const {typed} v = a0[{i}];"]
        lines += [f"o[{o} + {offset}] {sign} tap == {t} ? v : 0;" for t, offset in enumerate(offsets)]
        return "\n".join(lines)

    if math.prod(given.shape):
        template = _windows(body, kernel, stride, dilation, scatters=True, disjoint=disjoint)
        low.emit(template, target, given, taps)
    return target


def _image(low: Lowering, value: Value) -> Read:
    """An image in memory, of a floating type."""
    image = low.materialized(value)
    if image.dtype not in FLOATS:
        raise Unsupported(f"pooling of {image.dtype}")
    return image


def _windows(
    body: Body,
    kernel: Sizes,
    stride: Sizes,
    dilation: Sizes,
    *,
    scatters: bool = False,
    disjoint: bool = True,
) -> Template:
    """Template of a loop over windows.

    The image is walked with its strides times those of the windows, so that image and pooled side share one loop nest.

    Arguments:
        body: of the loop; in it `tap` is the index that is read, where one is, and `a0` what is read first.
        kernel: taps of a window along each axis.
        stride: from window to window.
        dilation: from tap to tap.
        scatters: whether the image is what is written, and not the first that is read.
        disjoint: whether no two windows have an element in common.
    """

    def write(pointers: Pointers, target: Read, one: Read, *taps: Read) -> str:
        image, pooled = (target, one) if scatters else (one, target)
        ndim = len(kernel)
        spatial = image.strides[-ndim:]
        strided = (*image.strides[:-ndim], *(s * step for s, step in zip(spatial, stride, strict=True)))
        offsets = [
            sum(index * d * s for index, d, s in zip(tap, dilation, spatial, strict=True))
            for tap in itertools.product(*map(range, kernel))
        ]
        order = sorted(range(len(pooled.shape)), key=lambda axis: -pooled.strides[axis])
        columns = [strided, pooled.strides, *(tap.strides for tap in taps)]
        sizes, (window, single, *others) = merge_axes(
            [pooled.shape[axis] for axis in order], *([column[axis] for axis in order] for column in columns)
        )
        o, i = (window, single) if scatters else (single, window)
        read = f"const int32_t tap = {pointers.name(taps[0])}[{flat_index(others[0])}];\n" if taps else ""
        text = read + body(offsets, C_TYPES[image.dtype], flat_index(o), flat_index(i))
        return c_function(pointers, loops(sizes, text, simd="#pragma omp simd" if disjoint else ""))

    return write


POOLING: dict[Operator, Rule] = {
    OPS.pool_argmax.default: _argmax,
    OPS.pool_gather.default: _gather,
    OPS.pool_scatter.default: _scatter,
}
