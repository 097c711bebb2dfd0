"""Max-pooling in C: the choice, and the two operators that take and put the chosen numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from .borders import OPS, Sizes, frame, framed
from .builder import Lowering
from .expressions import Read, Unsupported, Value, expand, order_in_memory
from .loops import FLOATS, Pointers, Writer, function, loops, merged, place
from .pointwise import C_TYPES


def _chosen(low: Lowering, node: fx.Node, x: Value, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Value:
    image = _image(low, x)
    target = low.new(tuple(node.meta["val"].shape), node.meta["val"].dtype, order_in_memory(image))

    def body(far: Sequence[int], typed: str, o: str, i: str) -> str:
        lines = [f"{typed} best = a0[{i}];", "int32_t tap = 0;"]
        for tap, away in enumerate(far[1:], 1):
            lines += [f"{{ {typed} v = a0[{i} + {away}]; int c = (v > best) | (v != v);"]
            lines += [f"best = c ? v : best; tap = c ? {tap} : tap; }}"]
        return "\n".join([*lines, f"o[{o}] = tap;"])

    if math.prod(target.shape):
        low.emit(_windows(kernel, stride, dilation, body), target, image)
    return target


def _taken(
    low: Lowering, node: fx.Node, x: Value, tap: Value, kernel: Sizes, stride: Sizes, dilation: Sizes
) -> Value:
    image, taps = _image(low, x), low.in_memory(tap)
    shape, around = tuple(node.meta["val"].shape), frame(node)
    if around is not None and len(shape) == len(kernel) + 3:
        whole, target = framed(low, shape, image.dtype, *around)
        low.copies[target, (*around[0], *around[1])] = whole
    else:
        target = low.new(shape, image.dtype, order_in_memory(taps))

    def body(far: Sequence[int], typed: str, o: str, i: str) -> str:
        lines = [f"{typed} v = a0[{i}];"]
        lines += [f"v = tap == {tap} ? a0[{i} + {away}] : v;" for tap, away in enumerate(far[1:], 1)]
        return "\n".join([*lines, f"o[{o}] = v;"])

    if math.prod(shape):
        low.emit(_windows(kernel, stride, dilation, body), target, image, taps)
    return target


def _put(
    low: Lowering,
    node: fx.Node,
    g: Value,
    tap: Value,
    kernel: Sizes,
    stride: Sizes,
    dilation: Sizes,
    size: Sizes,
) -> Value:
    given, taps = _image(low, g), low.in_memory(tap)
    shape = tuple(node.meta["val"].shape)
    target = low.new(shape, given.dtype, order_in_memory(taps))
    apart = all(s >= d * (k - 1) + 1 for k, s, d in zip(kernel, stride, dilation, strict=True))
    places = taps.shape[-len(kernel) :]
    if not apart or any(k * p != s for k, p, s in zip(kernel, places, size, strict=True)):
        low.store_into(target, expand(low.constant(0, given.dtype), shape))
    sign = "=" if apart else "+="

    def body(far: Sequence[int], typed: str, o: str, i: str) -> str:
        lines = [f"const {typed} v = a0[{i}];"]
        return "\n".join(
            [*lines, *(f"o[{o} + {away}] {sign} tap == {t} ? v : 0;" for t, away in enumerate(far))]
        )

    if math.prod(given.shape):
        low.emit(_windows(kernel, stride, dilation, body, written=True, apart=apart), target, given, taps)
    return target


def _image(low: Lowering, value: Value) -> Read:
    found = low.in_memory(value)
    if found.dtype not in FLOATS:
        raise Unsupported(f"pooling of {found.dtype}")
    return found


def _windows(
    kernel: Sizes,
    stride: Sizes,
    dilation: Sizes,
    body: Callable[[Sequence[int], str, str, str], str],
    *,
    written: bool = False,
    apart: bool = True,
) -> Writer:
    """A loop over windows; the image, with its windows, is what is `written`, or the first that is read.

    `body` is of the way to each place of a window, the type of the image, and where the window is in what is written
    and in what is read first; in it `tap` is the number of the chosen place, where that is read. `apart` says that no
    two windows have a place in common.
    """

    def write(pointers: Pointers, target: Read, one: Read, *taps: Read) -> str:
        image, plain = (target, one) if written else (one, target)
        count = len(kernel)
        across = image.strides[-count:]
        moved = (*image.strides[:-count], *(s * step for s, step in zip(across, stride, strict=True)))
        far = [
            sum(tap * d * s for tap, d, s in zip(spot, dilation, across, strict=True))
            for spot in itertools.product(*map(range, kernel))
        ]
        order = sorted(range(len(plain.shape)), key=lambda axis: -plain.strides[axis])
        columns = [moved, plain.strides, *(tap.strides for tap in taps)]
        sizes, (window, single, *others) = merged(
            [plain.shape[axis] for axis in order], *([column[axis] for axis in order] for column in columns)
        )
        o, i = (place(window), place(single)) if written else (place(single), place(window))
        read = f"const int32_t tap = {pointers.name(taps[0])}[{place(others[0])}];\n" if taps else ""
        text = read + body(far, C_TYPES[image.dtype], o, i)  # where `a0` is what is read first
        return function(pointers, loops(sizes, text, simd="#pragma omp simd" if apart else ""))

    return write


POOLS: dict[Any, Callable[..., Any]] = {
    OPS.chosen.default: _chosen,
    OPS.taken.default: _taken,
    OPS.put.default: _put,
}
