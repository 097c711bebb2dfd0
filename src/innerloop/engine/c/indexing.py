"""Rules of indexing by tensors: `x[i, j]`, `index_put`, `scatter_add`, embeddings, and what is written as these.

Reading by indices is a read with indirect terms, one for each indexed axis (`Read.gathered`), fused like any other
read. Writing by indices is a loop nest in the order of the indices: later writes win, sums are added in that order.
Indices are checked where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx

from .expressions import Apply, Read, Unsupported, Value, expand, map_reads, reads
from .loops import Pointers, Printer, Template, c_function, loops, term, unshared
from .lowering import Lowering, Rule
from .pointwise import C_TYPES, Operator, Pointwise, cast

__all__ = ["INDEXING"]

_aten = torch.ops.aten

# an index along an axis, with the stride and the size of the axis
Indirect = tuple[Value, int, int]


def _index(low: Lowering, node: fx.Node, x: Value, indices: Sequence[Value | None]) -> Read:
    """`x[i, :, j]`: axes without an index stay; those of the indices come first unless they stand together."""
    base = low.materialized(x)
    strides, indirect = _indexed(base, indices, tuple(node.meta["val"].shape))
    shape = tuple(node.meta["val"].shape)
    return low.contiguous(replace(base, shape=shape, strides=strides, gathered=indirect))


def _indexed(
    base: Read, indices: Sequence[Value | None], shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[Indirect, ...]]:
    """Strides of what is indexed along the axes of the result, and its indirect terms, in the shape of the result."""
    every = [*indices, *[None] * (len(base.shape) - len(indices))]
    axes = [axis for axis, index in enumerate(every) if index is not None]
    given = [index for index in every if index is not None]
    if any(index.dtype not in (torch.int64, torch.int32) for index in given):
        raise Unsupported("a mask as an index")
    rank = max(len(index.shape) for index in given)
    rest = [axis for axis in range(len(base.shape)) if axis not in axes]
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    before, after = rest[:first], rest[first:]
    strides = [base.strides[a] for a in before] + [0] * rank + [base.strides[a] for a in after]
    terms = []
    for axis, index in zip(axes, given, strict=True):
        inner = (1,) * (rank - len(index.shape))
        aligned = _with_axes(index, (*(1,) * len(before), *inner), (1,) * len(after))
        wrapped = _from_start(expand(aligned, shape), base.shape[axis])
        terms.append((wrapped, base.strides[axis], base.shape[axis]))
    return tuple(strides), tuple(terms)


def _with_axes(value: Value, before: tuple[int, ...], after: tuple[int, ...]) -> Value:
    """The value with axes of size 1 in front and behind."""
    zeros = [0] * len(before), [0] * len(after)

    def widened(read: Read) -> Read:
        shape = (*before, *read.shape, *after)
        return replace(read, shape=shape, strides=(*zeros[0], *read.strides, *zeros[1]))

    return map_reads(value, widened)


def _from_start(index: Value, size: int) -> Value:
    """Negative indices count from the end."""
    if isinstance(index, Read) and index.buffer is None:
        return index  # an arange
    sizes = Read(None, index.shape, (0,) * len(index.shape), size, index.dtype)
    return Apply(Pointwise("{0} < 0 ? {0} + {1} : {0}"), (index, sizes), index.shape, index.dtype)


def _index_select(low: Lowering, node: fx.Node, x: Value, axis: int, index: Value) -> Read:
    """Rows of any axis."""
    axis %= max(len(x.shape), 1)
    return _index(low, node, x, [*[None] * axis, index])


def _embedding(
    low: Lowering,
    node: fx.Node,
    weight: Value,
    index: Value,
    padding: int = -1,
    scale: bool = False,
    sparse: bool = False,
) -> Read:
    """Rows of a table; what is special about its padding is in the derivative."""
    return _index(low, node, weight, [index])


def _flip(low: Lowering, node: fx.Node, x: Value, axes: Sequence[int]) -> Read:
    """Indices that count down."""
    rank = len(x.shape)
    turned = {axis % rank for axis in axes} if rank else set()
    shape = tuple(x.shape)
    base = low.materialized(x)
    strides = tuple(0 if axis in turned else stride for axis, stride in enumerate(base.strides))
    terms = tuple(
        (_arange_along(axis, shape, start=shape[axis] - 1, step=-1), base.strides[axis], shape[axis])
        for axis in sorted(turned)
    )
    return low.contiguous(replace(base, strides=strides, gathered=terms))


def _arange_along(axis: int, shape: tuple[int, ...], *, start: int = 0, step: int = 1) -> Read:
    """Numbers along one axis of a shape."""
    strides = tuple(step if other == axis else 0 for other in range(len(shape)))
    return Read(None, shape, strides, start, torch.int64)


def _index_put(
    low: Lowering,
    node: fx.Node,
    x: Value,
    indices: Sequence[Value | None],
    values: Value,
    accumulate: bool = False,
) -> Read:
    """A copy of `x` with values written, or added, at `x[indices]`."""
    target = low.new(x.shape, x.dtype)
    low.store(target, x)
    shape = _result_shape(x.shape, indices)
    strides, indirect = _indexed(target, indices, shape)
    _emit_writes(low, target, expand(values, shape), strides, indirect, "+=" if accumulate else "=")
    return target


def _result_shape(shape: Sequence[int], indices: Sequence[Value | None]) -> tuple[int, ...]:
    """The shape of `x[indices]`, as torch finds it."""
    fake = [i if i is None else torch.empty(i.shape, dtype=torch.int64, device="meta") for i in indices]
    return tuple(_aten.index.Tensor(torch.empty(tuple(shape), device="meta"), fake).shape)


def _scatter_add(low: Lowering, node: fx.Node, x: Value, axis: int, index: Value, source: Value) -> Read:
    """A copy of `x` to which elements of another tensor are added along an axis."""
    target = low.new(x.shape, x.dtype)
    low.store(target, x)
    shape = tuple(index.shape)
    axis %= len(x.shape)
    part = map_reads(source, lambda read: replace(read, shape=shape))
    strides = tuple(0 if other == axis else stride for other, stride in enumerate(target.strides))
    _emit_writes(low, target, part, strides, ((index, target.strides[axis], x.shape[axis]),), "+=")
    return target


def _index_add(
    low: Lowering, node: fx.Node, x: Value, axis: int, index: Value, source: Value, *, alpha: float = 1
) -> Read:
    """A copy of `x` to whose rows along an axis rows of another tensor are added."""
    if alpha != 1:
        raise Unsupported("index_add with a factor")
    axis %= len(x.shape)
    return _index_put(low, node, x, [*[None] * axis, index], source, accumulate=True)


def _emit_writes(
    low: Lowering,
    target: Read,
    values: Value,
    strides: tuple[int, ...],
    indirect: tuple[Indirect, ...],
    sign: str,
) -> None:
    """A loop over the values that writes each to its element of the target."""
    if 0 in values.shape:
        return
    low.emit(_write_loop(strides, len(indirect), sign, [pair[1:] for pair in indirect]), target, values,
             *(index for index, _, _ in indirect), split=False)  # fmt: skip


def _write_loop(strides: tuple[int, ...], count: int, sign: str, axes: Sequence[tuple[int, int]]) -> Template:
    """Template of writes at indices: a loop nest in the order of the indices, without vectors, as writes may meet.

    Arguments:
        strides: of the target along the axes of the values; 0 along those of the indices.
        count: indexed axes.
        sign: `=` or `+=`.
        axes: stride and size of each indexed axis.
    """

    def write(pointers: Pointers, target: Read, values: Value, *indices: Value) -> str:
        own, at = unshared(values), [unshared(index) for index in indices]
        printer = Printer(own, pointers, [list(read.strides) for read in reads(own)])
        terms = [term(f"i{axis}", stride) for axis, stride in enumerate(strides) if stride]
        for index, (stride, size) in zip(at, axes, strict=True):
            along = Printer(index, pointers, [list(read.strides) for read in reads(index)])
            terms.append(f"within({along.text(index)}, {size}) * {stride}")
        body = f"o[{' + '.join(terms) or '0'}] {sign} {cast(printer.text(own), own.dtype, target.dtype)};"
        return c_function(pointers, loops(values.shape, body, simd=""))

    return write


# ---- positions -------------------------------------------------------------------------------------------------


def _extreme(sign: str) -> Rule:
    """`argmax` and `argmin`: the position of the first of the largest elements; NaN is larger than any."""

    def rule(low: Lowering, node: fx.Node, x: Value, axis: int | None = None, keepdim: bool = False) -> Read:
        base = low.contiguous(x)
        if axis is None:
            base = replace(base, shape=(_size(base.shape),), strides=(1,))
        axis = 0 if axis is None else axis % max(len(base.shape), 1)
        if 0 in base.shape or not base.shape:
            raise Unsupported("the largest of no elements")
        target = low.new(tuple(node.meta["val"].shape), torch.int64)
        low.emit(_extreme_loop(axis, sign), target, base, split=axis > 0)
        return target

    return rule


def _extreme_loop(axis: int, sign: str) -> Template:
    """Template of a search along one axis of a contiguous operand."""

    def write(pointers: Pointers, target: Read, read: Read) -> str:
        outer, size, inner = _size(read.shape[:axis]), read.shape[axis], _size(read.shape[axis + 1 :])
        typed, name = C_TYPES[read.dtype], pointers.name(read)
        return c_function(
            pointers,
            f"for (int64_t i = 0; i < {outer}; ++i) for (int64_t j = 0; j < {inner}; ++j) {{\n"
            f"const {typed} *a = {name} + i * {size * inner} + j;\nint64_t best = 0;\n"
            f"for (int64_t k = 1; k < {size}; ++k) {{\n{typed} v = a[k * {inner}], w = a[best * {inner}];\n"
            f"if (w == w && (v {sign} w || v != v)) best = k;\n}}\no[i * {inner} + j] = best;\n}}",
        )

    return write


def _cumsum(low: Lowering, node: fx.Node, x: Value, axis: int, *, dtype: object = None) -> Read:
    """Running sums along an axis."""
    kind = node.meta["val"].dtype
    converted = Apply(Pointwise("{0}"), (x,), tuple(x.shape), kind)
    target = low.new(tuple(x.shape), kind)
    low.store(target, converted)
    if not x.shape or 0 in x.shape:
        return target
    axis %= len(x.shape)
    sums = low.new(tuple(x.shape), kind)
    low.emit(_running_sums(axis), sums, target, split=axis > 0)
    return sums


def _running_sums(axis: int) -> Template:
    """Template of running sums of a contiguous operand."""

    def write(pointers: Pointers, target: Read, read: Read) -> str:
        outer, size, inner = _size(read.shape[:axis]), read.shape[axis], _size(read.shape[axis + 1 :])
        name = pointers.name(read)
        return c_function(
            pointers,
            f"for (int64_t i = 0; i < {outer}; ++i) for (int64_t k = 0; k < {size}; ++k)\n#pragma omp simd\n"
            f"for (int64_t j = 0; j < {inner}; ++j) {{\nconst int64_t at = (i * {size} + k) * {inner} + j;\n"
            f"o[at] = k ? o[at - {inner}] + {name}[at] : {name}[at];\n}}",
        )

    return write


def _size(shape: Sequence[int]) -> int:
    """The number of elements."""
    count = 1
    for size in shape:
        count *= size
    return count


INDEXING: dict[Operator, Rule] = {
    _aten.index.Tensor: _index,
    _aten._unsafe_index.Tensor: _index,
    _aten.index_select.default: _index_select,
    _aten.embedding.default: _embedding,
    _aten.flip.default: _flip,
    _aten.index_put.default: _index_put,
    _aten._unsafe_index_put.default: _index_put,
    _aten.index_add.default: _index_add,
    _aten.scatter_add.default: _scatter_add,
    _aten.argmax.default: _extreme(">"),
    _aten.argmin.default: _extreme("<"),
    _aten.cumsum.default: _cumsum,
}
