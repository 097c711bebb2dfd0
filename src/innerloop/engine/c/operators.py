"""Rules of operators that are not pointwise: views, reductions, matrix products, gather and scatter, parts written.

The place to add such an operator: a rule of the `Lowering`, the node and the values of its arguments goes into the
table `SPECIAL` (views into `VIEWS`, and into `view` where they are no plain arithmetic on strides).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from .expressions import (
    Apply,
    Read,
    Unsupported,
    Value,
    apply_view,
    expand,
    memory_order,
    reads,
    view_expression,
)
from .loops import FLOATS, Pointers, Printer, Template, c_function, loops, reduction, term, unshared
from .lowering import Lowering, Rule
from .matmul import Product, matmul
from .pointwise import C_TYPES, POINTWISE, Operator, Pointwise, cast

__all__ = ["REDUCED", "SPECIAL", "VIEWS", "view"]

_aten = torch.ops.aten
# how many times smaller a matrix must be to be copied, contiguous, in place of the other one
_SMALLER = 8


def view(low: Lowering, node: fx.Node, args: Sequence[Any]) -> Any:
    """A view, by arithmetic on strides; a copy where no strides describe it."""
    target: Any = node.target
    value, *rest = args
    if target is _aten.as_strided.default:  # it speaks of torch's memory, which is not ours
        if not node.args[0].meta["val"].is_contiguous():  # type: ignore[union-attr]
            raise Unsupported("as_strided of a view")
        value = low.contiguous(value)
    if isinstance(value, Apply):
        moved = view_expression(value, target, rest, node.kwargs)
        if moved is not None:
            return moved
        value = low.materialized(value)
    elif value.gathered:
        value = low.contiguous(value)
    try:
        return apply_view(value, target, rest, node.kwargs)
    except RuntimeError:  # no strides describe this view: it needs a copy
        return apply_view(low.contiguous(value), target, rest, node.kwargs)


# axes as torch names them: one, several, or none for all
Axes = int | Sequence[int] | None


def _reduced(low: Lowering, value: Value, axes: Axes, keep: bool, dtype: torch.dtype, kind: str) -> Read:
    """Sum or largest element over some axes.

    A sum over all tasks, where kernels run task by task, gets the part of each from an accumulator.
    """
    rank = len(value.shape)
    axes = [axes] if isinstance(axes, int) else axes
    axes = sorted(axis % rank for axis in axes) if axes and rank else list(range(rank))
    remaining = [axis for axis in range(rank) if axis not in axes]
    if math.prod(value.shape) == 0 and kind != "sum":
        raise Unsupported("the largest of no elements")
    order = [axis for axis in memory_order(value) if axis in remaining]
    target = low.new(
        [value.shape[axis] for axis in remaining], dtype, [remaining.index(axis) for axis in order]
    )
    value = low.coalesced(value, low.constant(0, dtype))
    if kind == "sum" and 0 in axes and low.splits_by_task(value):
        low.add_over_tasks(reduction(remaining, axes, kind, adds_in=dtype), target, value)
    else:
        low.emit(reduction(remaining, axes, kind), target, value, split=0 in remaining)
    if not keep:
        return target
    full = tuple(1 if axis in axes else size for axis, size in enumerate(value.shape))
    strides = dict(zip(remaining, target.strides, strict=True))
    return replace(target, shape=full, strides=tuple(strides.get(axis, 1) for axis in range(rank)))


def _sum(
    low: Lowering, node: fx.Node, x: Value, axes: Axes = (), keep: bool = False, *, dtype: object = None
) -> Value:
    return _reduced(low, x, axes, keep, node.meta["val"].dtype, "sum")


def _prims_sum(low: Lowering, node: fx.Node, x: Value, axes: Axes, *, output_dtype: object = None) -> Value:
    return _sum(low, node, x, axes)


def _mean(
    low: Lowering, node: fx.Node, x: Value, axes: Axes = (), keep: bool = False, *, dtype: object = None
) -> Value:
    return _scaled_sum(low, x, axes, keep, 0)


def _var(
    low: Lowering, node: fx.Node, x: Value, axes: Axes, correction: float = 1, output_dtype: object = None
) -> Value:
    """In two passes: the squares are of differences from the mean."""
    mean = _scaled_sum(low, x, axes, True, 0)
    square = Apply(Pointwise("sq_{s}({0} - {1})"), (x, expand(mean, x.shape)), x.shape, x.dtype)
    return _scaled_sum(low, square, axes, len(node.meta["val"].shape) == len(x.shape), correction)


def _scaled_sum(low: Lowering, x: Value, axes: Axes, keep: bool, correction: float) -> Value:
    """Sum over axes, divided by their size less a correction."""
    total = _reduced(low, x, axes, keep, x.dtype, "sum")
    count = math.prod(x.shape) / max(math.prod(total.shape), 1) - correction
    scale = expand(low.constant(1 / count if count > 0 else math.inf, total.dtype), total.shape)
    return Apply(Pointwise("{0} * {1}"), (total, scale), total.shape, total.dtype)


def _amax(low: Lowering, node: fx.Node, x: Value, axes: Axes = (), keep: bool = False) -> Value:
    return _reduced(low, x, axes, keep, x.dtype, "max")


def _amin(low: Lowering, node: fx.Node, x: Value, axes: Axes = (), keep: bool = False) -> Value:
    return _reduced(low, x, axes, keep, x.dtype, "min")


def _any(low: Lowering, node: fx.Node, x: Value, axes: Axes = (), keep: bool = False) -> Value:
    """The largest of truth values."""
    truth = Apply(Pointwise("{0}"), (x,), x.shape, torch.bool)
    return _reduced(low, truth, axes, keep, torch.bool, "max")


def _matmul(low: Lowering, node: fx.Node, a: Value, b: Value) -> Value:
    """Products of matrices, one for each leading index."""
    left, right = low.materialized(a), low.materialized(b)
    if left.dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"a matrix product of {left.dtype}")
    shape = tuple(node.meta["val"].shape)
    if math.prod(shape) == 0 or left.shape[-1] == 0:
        return low.contiguous(expand(low.constant(0, left.dtype), shape))
    if _is_read_transposed(node):  # computed in the layout that its readers want: (A B)' = B' A'
        return _transpose(_multiplied(low, _transpose(right), _transpose(left)))
    return _multiplied(low, left, right)


def _multiplied(low: Lowering, left: Read, right: Read) -> Read:
    """A contiguous product; if need be computed as `(right' left')'`, to have vectors along the longer side."""
    rows, columns = left.shape[-2], right.shape[-1]
    target = low.new((*left.shape[:-1], columns), left.dtype)
    out = (columns, 1)
    strided = right.strides[-1] != 1 and rows >= 8
    if columns < 8 <= rows or (strided and _SMALLER * rows <= columns):
        # vectors along the longer side; and of two matrices one of which must be copied, the far smaller one
        left, right, out = _transpose(right), _transpose(left), (1, columns)
    if right.strides[-1] != 1 and right.shape[-1] > 1:
        right = low.unit_stride(right, range(len(right.shape)))
    low.emit(_product(out), target, left, right, split=len(left.shape) == 3)
    return target


def _product(out: tuple[int, int]) -> Template:
    """Template of matrix products (see `matmul`), with these strides of the result."""

    def write(pointers: Pointers, target: Read, left: Read, right: Read) -> str:
        batch = left.shape[0] if len(left.shape) == 3 else 1
        rows, inner, columns = *left.shape[-2:], right.shape[-1]
        product = Product(batch, rows, inner, columns, _strides(left), _strides(right), out)
        typed = C_TYPES[target.dtype]
        return c_function(pointers, matmul(product, typed, pointers.name(left), pointers.name(right)))

    return write


def _transpose(matrix: Read) -> Read:
    """The last two axes exchanged, by strides."""
    *shape, rows, columns = matrix.shape
    *strides, down, across = matrix.strides
    return replace(matrix, shape=(*shape, columns, rows), strides=(*strides, across, down))


def _is_read_transposed(node: fx.Node) -> bool:
    """Whether what is made of a product, pointwise operator by operator, is read with its last two axes transposed.

    Expressions are computed where they are read; a matrix with the layout that is read there needs no transposing copy.
    """
    transposed = False
    while node.users:
        user = next(iter(node.users))
        if all(map(_is_transpose, node.users)):
            transposed = not transposed
        elif user.target not in POINTWISE or user.meta["val"].shape != node.meta["val"].shape:
            break
        if len(node.users) > 1:
            break
        node = user
    return transposed


def _is_transpose(node: fx.Node) -> bool:
    """Whether an operator exchanges the last two axes."""
    if node.target not in (_aten.permute.default, _aten.t.default, _aten.transpose.int):
        return False
    rank = node.meta["val"].dim()
    forms = [(), ([*range(rank - 2), rank - 1, rank - 2],), (rank - 2, rank - 1)]
    return tuple(node.args[1:]) in forms


def _strides(matrix: Read) -> tuple[int, int, int]:
    """Strides of the batch, the rows and the columns."""
    *batch, down, across = matrix.strides
    return (batch[0] if batch else 0, down, across)


def _addmm(
    low: Lowering, node: fx.Node, c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1
) -> Value:
    """A product and a lazy sum: an epilogue is fused into whatever loop reads it."""
    if beta != 1 or alpha != 1:
        raise Unsupported("addmm with factors")
    product = _matmul(low, node, a, b)
    return Apply(Pointwise("{0} + {1}"), (product, expand(c, product.shape)), product.shape, product.dtype)


def _full(low: Lowering, node: fx.Node, *args: object, **kwargs: object) -> Value:
    """Constant tensors of every kind; the number is the one the operator names."""
    target: Any = node.target
    fake = node.meta["val"]
    low.require(fake.dtype)
    return expand(low.constant(_CONSTANTS[target](args), fake.dtype), tuple(fake.shape))


def _arange(low: Lowering, node: fx.Node, *args: object, **kwargs: object) -> Value:
    """The numbers themselves, by a stride without a buffer."""
    fake = node.meta["val"]
    numbers = [arg for arg in args if isinstance(arg, (int, float))]
    start = numbers[0] if len(numbers) > 1 else 0
    step = numbers[2] if len(numbers) > 2 else 1
    if fake.dtype in FLOATS:
        shape = tuple(fake.shape)
        count = Read(None, shape, (1,), 0, torch.int64)
        fixed = [expand(low.constant(number, torch.float64), shape) for number in (start, step)]
        return Apply(Pointwise("{0} + {1} * {2}"), (fixed[0], count, fixed[1]), shape, fake.dtype)
    if fake.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise Unsupported(f"arange of {fake.dtype}")
    # bytes are compared, as in an identity matrix; a result of theirs would be a type that C has not
    dtype = torch.int64 if fake.dtype == torch.uint8 else fake.dtype
    return Read(None, tuple(fake.shape), (int(step),), int(start), dtype)


def _gather(
    low: Lowering, node: fx.Node, x: Value, axis: int, index: Value, *, sparse_grad: bool = False
) -> Value:
    """A read with an indirect term, copied by a loop nest."""
    base = low.materialized(x)
    axis %= len(base.shape)
    strides = tuple(0 if a == axis else s for a, s in enumerate(base.strides))
    indices = low.materialized(index)
    gathered = ((indices, base.strides[axis], base.shape[axis]),)
    return low.contiguous(replace(base, shape=indices.shape, strides=strides, gathered=gathered))


def _scatter(low: Lowering, node: fx.Node, x: Value, axis: int, index: Value, source: Value | float) -> Value:
    """A copy of `x` in which some elements along an axis hold other values; later ones win."""
    target = low.new(x.shape, x.dtype)
    low.store(target, x)
    indices = low.materialized(index)
    axis %= len(x.shape)
    value = low.constant(source, x.dtype) if isinstance(source, (int, float)) else low.materialized(source)
    for other, size in enumerate(indices.shape if value.shape else ()):
        value = apply_view(value, _aten.slice.Tensor, [other, 0, size], {})
    low.emit(_scatter_loop(axis), target, indices, expand(value, indices.shape), split=axis != 0)
    return target


def _scatter_loop(axis: int) -> Template:
    """Template of a scatter: a loop nest in the order of the indices, without vectors, as later writes win."""

    def write(pointers: Pointers, target: Read, indices: Read, value: Read) -> str:
        own, where = unshared(value), replace(indices)
        columns = [list(r.strides) for r in reads(own)]
        printer, at = Printer(own, pointers, columns), Printer(where, pointers, [list(where.strides)])
        terms = [term(f"i{a}", s) for a, s in enumerate(target.strides) if a != axis]
        along = f"within({at.text(where)}, {target.shape[axis]}) * {target.strides[axis]}"
        body = f"o[{' + '.join([*terms, along])}] = {cast(printer.text(own), own.dtype, target.dtype)};"
        return c_function(pointers, loops(indices.shape, body, simd=""))

    return write


def _cat(low: Lowering, node: fx.Node, parts: Sequence[Value], axis: int = 0) -> Value:
    """Each part is computed into its slice of the result."""
    fake = node.meta["val"]
    target = low.new(tuple(fake.shape), fake.dtype)
    axis %= len(target.shape)
    start = 0
    for part in parts:
        if part.shape == (0,) and len(fake.shape) != 1:
            continue
        size = part.shape[axis]
        low.store(apply_view(target, _aten.slice.Tensor, [axis, start, start + size], {}), part)
        start += size
    return target


def _written(view: Operator) -> Rule:
    """A copy of the first operand with another value written through a view of it."""

    def rule(low: Lowering, node: fx.Node, x: Value, source: Value, *args: object, **kwargs: object) -> Read:
        target = low.new(x.shape, x.dtype)
        low.store(target, x)
        low.store(apply_view(target, view, args, kwargs), source)
        return target

    return rule


def _pad(low: Lowering, node: fx.Node, x: Value, pads: Sequence[int], fill: float = 0.0) -> Value:
    """A result full of the fill value, and the operand computed into its interior; negative padding cuts."""
    fake = node.meta["val"]
    for back in range(len(pads) // 2):
        axis = len(x.shape) - 1 - back
        first, last = max(-pads[2 * back], 0), x.shape[axis] - max(-pads[2 * back + 1], 0)
        if (first, last) != (0, x.shape[axis]):
            x = apply_view(low.materialized(x), _aten.slice.Tensor, [axis, first, last], {})
    pads = [max(pad, 0) for pad in pads]
    target = low.new(tuple(fake.shape), fake.dtype)
    low.store(target, expand(low.constant(fill, fake.dtype), target.shape))
    interior = target
    for back in range(len(pads) // 2):
        axis = len(x.shape) - 1 - back
        begin = pads[2 * back]
        interior = apply_view(interior, _aten.slice.Tensor, [axis, begin, begin + x.shape[axis]], {})
    low.store(interior, x)
    return target


# ---- tables ----------------------------------------------------------------------------------------------------

# operators whose result is strided memory of their argument
VIEWS = {
    *(_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.expand.default),
    *(_aten.permute.default, _aten.transpose.int, _aten.t.default, _aten.unsqueeze.default),
    *(_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.select.int, _aten.slice.Tensor),
    *(_aten.alias.default, _aten.detach.default, _aten.unbind.int, _aten.split.Tensor),
    *(_aten.split_with_sizes.default, _aten.diagonal.default, _aten.lift_fresh_copy.default),
    *(_aten.as_strided.default, _aten.lift.default),
}
# reductions into whose loop a lazy expression is fused
REDUCED = {
    *(_aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim),
    *(_aten.amax.default, _aten.amin.default),
}
_ZEROS = (
    *(_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default, _aten.empty.memory_format),
    *(_aten.empty_like.default, _aten.new_empty.default),
)
_ONES = (_aten.ones.default, _aten.ones_like.default, _aten.new_ones.default)
# constant tensors: the number, of the arguments
_CONSTANTS: dict[Operator, Callable[[Sequence[Any]], float]] = {
    _aten.full.default: lambda args: args[1],
    _aten.full_like.default: lambda args: args[1],
    _aten.new_full.default: lambda args: args[2],
    _aten.scalar_tensor.default: lambda args: args[0],
    **dict.fromkeys(_ZEROS, lambda args: 0),
    **dict.fromkeys(_ONES, lambda args: 1),
}
SPECIAL: dict[Operator, Rule] = {
    **dict.fromkeys((_aten.sum.default, _aten.sum.dim_IntList), _sum),
    **dict.fromkeys((_aten.mean.default, _aten.mean.dim), _mean),
    _aten.amax.default: _amax,
    _aten.amin.default: _amin,
    **dict.fromkeys((_aten.any.default, _aten.any.dim, _aten.any.dims), _any),
    torch.ops.prims.sum.default: _prims_sum,
    torch.ops.prims.var.default: _var,
    **dict.fromkeys((_aten.mm.default, _aten.bmm.default), _matmul),
    **dict.fromkeys((_aten.addmm.default, _aten.baddbmm.default), _addmm),
    **dict.fromkeys((_aten.arange.default, _aten.arange.start, _aten.arange.start_step), _arange),
    _aten.gather.default: _gather,
    **dict.fromkeys((_aten.scatter.value, _aten.scatter.src), _scatter),
    _aten.cat.default: _cat,
    _aten.slice_scatter.default: _written(_aten.slice.Tensor),
    _aten.select_scatter.default: _written(_aten.select.int),
    _aten.diagonal_scatter.default: _written(_aten.diagonal.default),
    _aten.constant_pad_nd.default: _pad,
    **dict.fromkeys(_CONSTANTS, _full),
}
