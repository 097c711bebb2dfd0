"""Max-pooling as a choice and two operators that are each other's derivatives.

`chosen` says which place of its window each result is; given that, pooling takes the chosen numbers (`taken`), and its
derivative puts numbers back to where they were taken from (`put`). Both are linear, and each is the other's derivative,
so that nothing else appears in a derivative of any order. All leading axes are rows, tasks among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_POOLS: tuple[Callable[..., Any], ...] = (functional.max_pool1d, functional.max_pool2d)


@torch.library.custom_op("innerloop::chosen", mutates_args=())
def chosen(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Which place of its window is the largest, `(*, *places)` int32; windows as in `max_pool2d` without padding."""
    places = len(kernel)
    rows = x.flatten(0, -places - 2)
    _, where = _POOLS[places - 1](rows, kernel, stride, 0, dilation, return_indices=True)
    tap = torch.zeros_like(where)
    factor = math.prod(x.shape[-places:])
    for axis in range(places):
        factor //= x.shape[axis - places]
        start = _starts(where.shape[axis - places], stride[axis], axis - places, where)
        along = (where // factor) % x.shape[axis - places]
        tap = tap * kernel[axis] + (along - start) // dilation[axis]
    return tap.to(torch.int32).reshape(*x.shape[:-places], *where.shape[-places:])


@torch.library.custom_op("innerloop::taken", mutates_args=())
def taken(
    x: Tensor, tap: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The chosen numbers."""
    places = len(kernel)
    where = _where(tap, x.shape[-places:], kernel, stride, dilation).flatten(-places)
    return x.flatten(-places).gather(-1, where).reshape(tap.shape)


@torch.library.custom_op("innerloop::put", mutates_args=())
def put(
    g: Tensor,
    tap: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """Numbers at the places where they were chosen, added up where windows overlap, and zeros elsewhere."""
    places = len(kernel)
    where = _where(tap, size, kernel, stride, dilation).flatten(-places)
    flat = g.new_zeros(*g.shape[:-places], math.prod(size))
    return flat.scatter_add(-1, where, g.flatten(-places)).reshape(*g.shape[:-places], *size)


def _starts(count: int, stride: int, axis: int, like: Tensor) -> Tensor:
    """Where windows begin along an axis."""
    return (torch.arange(count, device=like.device) * stride).reshape(-1, *(1,) * (-axis - 1))


def _where(
    tap: Tensor, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Places in the flat image."""
    places, left = len(kernel), tap.long()
    found, factor = torch.zeros_like(left), 1
    for axis in reversed(range(places)):
        along = left % kernel[axis] * dilation[axis]
        found = found + factor * (_starts(tap.shape[axis - places], stride[axis], axis - places, tap) + along)
        left, factor = left // kernel[axis], factor * size[axis]
    return found


@chosen.register_fake
def _(x: Tensor, kernel: Any, stride: Any, dilation: Any) -> Tensor:
    places = len(kernel)
    sizes = zip(x.shape[-places:], kernel, stride, dilation, strict=True)
    size = [(s - d * (k - 1) - 1) // step + 1 for s, k, step, d in sizes]
    return x.new_empty(*x.shape[:-places], *size, dtype=torch.int32)


@taken.register_fake
def _(x: Tensor, tap: Tensor, kernel: Any, stride: Any, dilation: Any) -> Tensor:
    return x.new_empty(tap.shape)


@put.register_fake
def _(g: Tensor, tap: Tensor, kernel: Any, stride: Any, dilation: Any, size: Any) -> Tensor:
    return g.new_empty(*g.shape[: -len(kernel)], *size)


def _save_taken(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, tap, *ctx.how = inputs
    ctx.size = x.shape[-len(ctx.how[0]) :]
    ctx.save_for_backward(tap)


def _save_put(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, tap, *how, _ = inputs
    ctx.how = how
    ctx.save_for_backward(tap)


def _taken_gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (tap,) = ctx.saved_tensors
    return put(g, tap, *ctx.how, ctx.size), None, None, None, None


def _put_gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (tap,) = ctx.saved_tensors
    return taken(g, tap, *ctx.how), None, None, None, None, None


taken.register_autograd(_taken_gradient, setup_context=_save_taken)
put.register_autograd(_put_gradient, setup_context=_save_put)


def _mapped(op: Callable[..., Tensor], count: int) -> Callable[..., tuple[Tensor, int]]:
    """The rule of `vmap`: the mapped axis is one more row."""

    def rule(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        moved = [
            tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
            for tensor, dim in zip(args[:count], dims, strict=False)
        ]
        return op(*moved, *args[count:]), 0

    return rule


for _operator, _count in ((chosen, 1), (taken, 2), (put, 2)):
    _operator.register_vmap(_mapped(_operator, _count))
