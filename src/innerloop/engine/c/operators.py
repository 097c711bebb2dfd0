"""What operators become that are not pointwise: views, sums, products of matrices, parts taken and written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from .builder import Lowering
from .expressions import (
    Apply,
    Read,
    Unsupported,
    Value,
    expand,
    order_in_memory,
    reads,
    reindexed,
    seen_through,
)
from .loops import Pointers, Scope, Writer, distinct, function, loop_nest, loops, reduction, term
from .matmul import Product, matmul
from .pointwise import C_TYPES, POINTWISE, Pointwise, cast

_aten = torch.ops.aten


# ---- operators that are not pointwise ------------------------------------------------------------------------


def view(low: Lowering, node: fx.Node, args: Sequence[Any]) -> Any:
    """A view, by arithmetic on strides; a copy where no strides describe it."""
    value, *rest = args
    if node.target is _aten.as_strided.default:  # it speaks of torch's memory, which is not ours
        if not node.args[0].meta["val"].is_contiguous():  # type: ignore[union-attr]
            raise Unsupported("as_strided of a view")
        value = low.stored(value)
    if isinstance(value, Apply):
        moved = reindexed(value, node.target, rest, node.kwargs)
        if moved is not None:
            return moved
        value = low.in_memory(value)
    elif value.gathered:
        value = low.stored(value)
    try:
        return seen_through(value, node.target, rest, node.kwargs)
    except RuntimeError:  # no strides describe this view: it needs a copy
        return seen_through(low.stored(value), node.target, rest, node.kwargs)


def _reduced(
    low: Lowering, value: Value, axes: Sequence[int], keep: bool, dtype: torch.dtype, kind: str
) -> Read:
    """Sum or largest element over some axes."""
    rank = len(value.shape)
    axes = sorted(axis % rank for axis in axes) if axes else list(range(rank))
    kept = [axis for axis in range(rank) if axis not in axes]
    if math.prod(value.shape) == 0 and kind == "max":
        raise Unsupported("the largest of no elements")
    order = [axis for axis in order_in_memory(value) if axis in kept]
    target = low.new([value.shape[axis] for axis in kept], dtype, [kept.index(axis) for axis in order])
    value = low.ordered(value, low.constant(0, dtype))
    if kind == "sum" and 0 in axes and low.by_task(value):  # each task adds its part, and keeps nothing
        low.emit(loop_nest, target, expand(low.constant(0, dtype), target.shape), split=False)
        low.emit(reduction(kept, axes, kind, adds=True), target, value, adds=True)
    else:
        low.emit(reduction(kept, axes, kind), target, value, split=0 in kept)
    if not keep:
        return target
    full = tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))
    strides = dict(zip(kept, target.strides, strict=True))
    return replace(target, shape=full, strides=tuple(strides.get(axis, 1) for axis in range(rank)))


def _sum(
    low: Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False, *, dtype: Any = None
) -> Value:
    return _reduced(low, x, axes or (), keep, node.meta["val"].dtype, "sum")


def _mean(
    low: Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False, *, dtype: Any = None
) -> Value:
    return _scaled_sum(low, x, axes, keep, 0)


def _var(low: Lowering, node: fx.Node, x: Value, axes: Any, correction: float = 1, **_: Any) -> Value:
    mean = _scaled_sum(low, x, axes, True, 0)
    gap = Apply(Pointwise("sq_{s}({0} - {1})"), (x, expand(mean, x.shape)), x.shape, x.dtype)
    return _scaled_sum(low, gap, axes, len(node.meta["val"].shape) == len(x.shape), correction)


def _scaled_sum(low: Lowering, x: Value, axes: Any, keep: bool, correction: float) -> Value:
    """Sum over axes, divided by their size less a correction."""
    total = _reduced(low, x, axes or (), keep, x.dtype, "sum")
    count = math.prod(x.shape) / max(math.prod(total.shape), 1) - correction
    scale = expand(low.constant(1 / count if count > 0 else math.inf, total.dtype), total.shape)
    return Apply(Pointwise("{0} * {1}"), (total, scale), total.shape, total.dtype)


def _amax(low: Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False) -> Value:
    return _reduced(low, x, axes or (), keep, x.dtype, "max")


def _any(low: Lowering, node: fx.Node, x: Value, axes: Any = (), keep: bool = False) -> Value:
    true = Apply(Pointwise("{0}"), (x,), x.shape, torch.bool)
    return _reduced(low, true, [axes] if isinstance(axes, int) else axes, keep, torch.bool, "max")


# how many times smaller a matrix is that is put in order in place of the other one
_SMALLER = 8


def _matmul(low: Lowering, node: fx.Node, a: Value, b: Value) -> Value:
    """Products of matrices, one for each leading index."""
    left, right = low.in_memory(a), low.in_memory(b)
    if left.dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"a matrix product of {left.dtype}")
    shape = tuple(node.meta["val"].shape)
    if math.prod(shape) == 0 or left.shape[-1] == 0:
        return low.stored(expand(low.constant(0, left.dtype), shape))
    if _turned_in_the_end(node):  # written as its readers want it
        turned = _multiplied(low, _transposed(right), _transposed(left))
        return _transposed(turned)
    return _multiplied(low, left, right)


def _multiplied(low: Lowering, left: Read, right: Read) -> Read:
    rows, columns = left.shape[-2], right.shape[-1]
    target = low.new((*left.shape[:-1], columns), left.dtype)
    out = (columns, 1)
    lies_across = right.strides[-1] != 1 and rows >= 8
    if columns < 8 <= rows or (lies_across and _SMALLER * rows <= columns):
        # vectors along the longer side; and of a matrix that must be put in order, the far smaller one
        left, right, out = _transposed(right), _transposed(left), (1, columns)
    if right.strides[-1] != 1 and right.shape[-1] > 1:
        right = low.in_line(right, range(len(right.shape)))
    low.emit(_product(out), target, left, right, split=len(left.shape) == 3)
    return target


def _product(out: tuple[int, int]) -> Writer:
    def write(pointers: Pointers, target: Read, left: Read, right: Read) -> str:
        batch = left.shape[0] if len(left.shape) == 3 else 1
        rows, inner, columns = *left.shape[-2:], right.shape[-1]
        product = Product(batch, rows, inner, columns, _steps(left), _steps(right), out)
        typed = C_TYPES[left.dtype]
        return function(pointers, matmul(product, typed, pointers.name(left), pointers.name(right)))

    return write


def _transposed(matrix: Read) -> Read:
    *shape, rows, columns = matrix.shape
    *strides, down, across = matrix.strides
    return replace(matrix, shape=(*shape, columns, rows), strides=(*strides, across, down))


def _turned_in_the_end(node: fx.Node) -> bool:
    """Whether what is made of a product, operator by operator, is read with its last two axes exchanged.

    Expressions are computed where they are read; a matrix that lies as it is read there need not be turned for them.
    """
    turned = False
    while node.users:
        user = next(iter(node.users))
        if all(map(_transposes, node.users)):
            turned = not turned
        elif user.target not in POINTWISE or user.meta["val"].shape != node.meta["val"].shape:
            break
        if len(node.users) > 1:
            break
        node = user
    return turned


def _transposes(node: fx.Node) -> bool:
    """Whether an operator exchanges the last two axes."""
    if node.target not in (_aten.permute.default, _aten.t.default, _aten.transpose.int):
        return False
    rank = node.meta["val"].dim()
    turns = [(), ([*range(rank - 2), rank - 1, rank - 2],), (rank - 2, rank - 1)]
    return tuple(node.args[1:]) in turns


def _steps(matrix: Read) -> tuple[int, int, int]:
    """Strides of the batch, the rows and the columns."""
    *batch, down, across = matrix.strides
    return (batch[0] if batch else 0, down, across)


def _addmm(
    low: Lowering, node: fx.Node, c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1
) -> Value:
    if beta != 1 or alpha != 1:
        raise Unsupported("addmm with factors")
    product = _matmul(low, node, a, b)
    return Apply(Pointwise("{0} + {1}"), (product, expand(c, product.shape)), product.shape, product.dtype)


def _full(low: Lowering, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    """Constant tensors of every kind; the number is the one the operator names."""
    fake = node.meta["val"]
    low.require(fake.dtype)
    value = _CONSTANTS[node.target](args)
    return expand(low.constant(value, fake.dtype), tuple(fake.shape))


def _arange(low: Lowering, node: fx.Node, *args: Any, **kwargs: Any) -> Value:
    fake = node.meta["val"]
    numbers = [arg for arg in args if isinstance(arg, (int, float))]
    start = numbers[0] if len(numbers) > 1 else 0
    step = numbers[2] if len(numbers) > 2 else 1
    if fake.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise Unsupported(f"arange of {fake.dtype}")
    # bytes are compared, as in an identity matrix; a result of theirs would be a type that C has not
    dtype = torch.int64 if fake.dtype == torch.uint8 else fake.dtype
    return Read(None, tuple(fake.shape), (int(step),), int(start), dtype)


def _gather(low: Lowering, node: fx.Node, x: Value, axis: int, index: Value, **_: Any) -> Value:
    base = low.in_memory(x)
    axis %= len(base.shape)
    strides = tuple(0 if a == axis else s for a, s in enumerate(base.strides))
    place = low.in_memory(index)
    found = replace(
        base, shape=place.shape, strides=strides, gathered=((place, base.strides[axis], base.shape[axis]),)
    )
    return low.stored(found)


def _scatter(low: Lowering, node: fx.Node, x: Value, axis: int, index: Value, source: Any) -> Value:
    """A copy of `x` in which some places along an axis hold other values; later ones win."""
    target = low.new(x.shape, x.dtype)
    low.store_into(target, x)
    places = low.in_memory(index)
    axis %= len(x.shape)
    value = low.constant(source, x.dtype) if isinstance(source, (int, float)) else low.in_memory(source)
    for other, size in enumerate(places.shape if value.shape else ()):
        value = seen_through(value, _aten.slice.Tensor, [other, 0, size], {})
    spread = expand(value, places.shape)
    low.emit(_scattering(axis), target, places, spread, split=axis != 0)
    return target


def _scattering(axis: int) -> Writer:
    def write(pointers: Pointers, target: Read, places: Read, value: Value) -> str:
        own, where = distinct(value), replace(places)
        columns = [list(r.strides) for r in reads(own)]
        scope, at = Scope(own, pointers, columns), Scope(where, pointers, [list(where.strides)])
        terms = [term(f"i{a}", s) for a, s in enumerate(target.strides) if a != axis]
        place = " + ".join(
            [*terms, f"within({at.text(where)}, {target.shape[axis]}) * {target.strides[axis]}"]
        )
        body = f"o[{place}] = {cast(scope.text(own), own.dtype, target.dtype)};"
        return function(pointers, loops(places.shape, body, simd=""))

    return write


def _cat(low: Lowering, node: fx.Node, parts: Sequence[Value], axis: int = 0) -> Value:
    fake = node.meta["val"]
    target = low.new(tuple(fake.shape), fake.dtype)
    axis %= len(target.shape)
    start = 0
    for part in parts:
        if part.shape == (0,) and len(fake.shape) != 1:
            continue
        size = part.shape[axis]
        hole = seen_through(target, _aten.slice.Tensor, [axis, start, start + size], {})
        low.store_into(hole, part)
        start += size
    return target


def _slice_scatter(low: Lowering, node: fx.Node, x: Value, source: Value, *where: Any, **kw: Any) -> Value:
    return _written(low, x, source, _aten.slice.Tensor, where, kw)


def _select_scatter(low: Lowering, node: fx.Node, x: Value, source: Value, *where: Any, **kw: Any) -> Value:
    return _written(low, x, source, _aten.select.int, where, kw)


def _diagonal_scatter(low: Lowering, node: fx.Node, x: Value, source: Value, *where: Any, **kw: Any) -> Value:
    return _written(low, x, source, _aten.diagonal.default, where, kw)


def _written(
    low: Lowering, x: Value, source: Value, view: Any, where: Sequence[Any], kw: dict[str, Any]
) -> Read:
    target = low.new(x.shape, x.dtype)
    low.store_into(target, x)
    low.store_into(seen_through(target, view, where, kw), source)
    return target


def _pad(low: Lowering, node: fx.Node, x: Value, pads: Sequence[int], fill: float = 0.0) -> Value:
    if min(pads, default=0) < 0:
        raise Unsupported("padding that cuts")
    fake = node.meta["val"]
    target = low.new(tuple(fake.shape), fake.dtype)
    low.store_into(target, expand(low.constant(fill, fake.dtype), target.shape))
    hole = target
    for back in range(len(pads) // 2):
        axis = len(x.shape) - 1 - back
        begin = pads[2 * back]
        hole = seen_through(hole, _aten.slice.Tensor, [axis, begin, begin + x.shape[axis]], {})
    low.store_into(hole, x)
    return target


VIEWS = {
    *(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.expand.default),
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.select.int, _aten.slice.Tensor),
    *(_aten.alias.default, _aten.detach.default, _aten.unbind.int, _aten.split.Tensor),
    *(_aten.split_with_sizes.default, _aten.diagonal.default, _aten.lift_fresh_copy.default),
    *(_aten.as_strided.default, _aten.lift.default),
}
REDUCED = {
    _aten.sum.default,
    _aten.sum.dim_IntList,
    _aten.mean.default,
    _aten.mean.dim,
    _aten.amax.default,
}
_CONSTANTS: dict[Any, Callable[[Sequence[Any]], float]] = {
    _aten.full.default: lambda args: args[1],
    _aten.full_like.default: lambda args: args[1],
    _aten.new_full.default: lambda args: args[2],
    _aten.scalar_tensor.default: lambda args: args[0],
    **{
        op: lambda args: 0
        for op in (
            *(
                _aten.zeros.default,
                _aten.zeros_like.default,
                _aten.new_zeros.default,
                _aten.empty.memory_format,
            ),
            *(_aten.empty_like.default, _aten.new_empty.default),
        )
    },
    **{op: lambda args: 1 for op in (_aten.ones.default, _aten.ones_like.default, _aten.new_ones.default)},
}
SPECIAL: dict[Any, Callable[..., Any]] = {
    _aten.sum.default: _sum,
    _aten.sum.dim_IntList: _sum,
    _aten.mean.default: _mean,
    _aten.mean.dim: _mean,
    _aten.amax.default: _amax,
    _aten.any.default: _any,
    _aten.any.dim: _any,
    _aten.any.dims: _any,
    torch.ops.prims.var.default: _var,
    _aten.mm.default: _matmul,
    _aten.bmm.default: _matmul,
    _aten.addmm.default: _addmm,
    _aten.baddbmm.default: _addmm,
    _aten.arange.default: _arange,
    _aten.arange.start: _arange,
    _aten.arange.start_step: _arange,
    _aten.gather.default: _gather,
    _aten.scatter.value: _scatter,
    _aten.scatter.src: _scatter,
    _aten.cat.default: _cat,
    _aten.slice_scatter.default: _slice_scatter,
    _aten.select_scatter.default: _select_scatter,
    _aten.diagonal_scatter.default: _diagonal_scatter,
    _aten.constant_pad_nd.default: _pad,
    **dict.fromkeys(_CONSTANTS, _full),
}
