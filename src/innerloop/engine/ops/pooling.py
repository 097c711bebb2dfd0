"""Max-pooling as argmax, gather and scatter, of which the last two are each other's derivatives.

`pool_argmax` says which tap of its window each result is; given that, pooling gathers those elements
(`pool_gather`), and its derivative scatters numbers back to where they came from (`pool_scatter`). Both are linear,
and each is the transpose, hence the derivative, of the other: nothing else appears in a derivative of any order.

An index is that of a tap within its window, not of an element of the image as in torch: it stays small, and `vmap` and
a change of the memory layout leave it as it is. All leading axes are rows, tasks among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .registration import Context, Grads, VmapInfo, batch_axis_first

__all__ = ["pool_argmax", "pool_gather", "pool_scatter"]

_POOLS: tuple[Callable[..., Any], ...] = (functional.max_pool1d, functional.max_pool2d)


@torch.library.custom_op("innerloop::pool_argmax", mutates_args=())
def pool_argmax(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Which tap of its window is the largest: `(*, *S)` to int32 `(*, *)`; windows as in `max_pool2d` without padding.

    Example:
        >>> pool_argmax(torch.tensor([[[3.0, 4.0, 9.0, 1.0]]]), [2], [2], [1]).tolist()
        [[[1, 0]]]
    """
    ndim = len(kernel)
    rows = x.flatten(0, -ndim - 2)
    _, flat_index = _POOLS[ndim - 1](rows, kernel, stride, 0, dilation, return_indices=True)
    tap = torch.zeros_like(flat_index)
    factor = math.prod(x.shape[-ndim:])
    for axis in range(ndim):
        factor //= x.shape[axis - ndim]
        start = _window_starts(flat_index.shape[axis - ndim], stride[axis], axis - ndim, flat_index)
        along = (flat_index // factor) % x.shape[axis - ndim]
        tap = tap * kernel[axis] + (along - start) // dilation[axis]
    return tap.to(torch.int32).reshape(*x.shape[:-ndim], *flat_index.shape[-ndim:])


@torch.library.custom_op("innerloop::pool_gather", mutates_args=())
def pool_gather(
    x: Tensor, tap: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The element of `x` at the given tap of each window; the result has the shape of `tap`."""
    ndim = len(kernel)
    index = _flat_index(tap, x.shape[-ndim:], kernel, stride, dilation).flatten(-ndim)
    return x.flatten(-ndim).gather(-1, index).reshape(tap.shape)


@torch.library.custom_op("innerloop::pool_scatter", mutates_args=())
def pool_scatter(
    g: Tensor,
    tap: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """The transpose of `pool_gather`: `g` added up at the given taps, and zeros elsewhere; `size` is that in space."""
    ndim = len(kernel)
    index = _flat_index(tap, size, kernel, stride, dilation).flatten(-ndim)
    flat = g.new_zeros(*g.shape[:-ndim], math.prod(size))
    return flat.scatter_add(-1, index, g.flatten(-ndim)).reshape(*g.shape[:-ndim], *size)


def _window_starts(count: int, stride: int, axis: int, like: Tensor) -> Tensor:
    """Where windows begin along an axis, broadcastable against the axes after it."""
    return (torch.arange(count, device=like.device) * stride).reshape(-1, *(1,) * (-axis - 1))


def _flat_index(
    tap: Tensor, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Index of each tap in the image with its spatial axes flattened, as torch's gather and scatter want it."""
    ndim, rest = len(kernel), tap.long()
    index, factor = torch.zeros_like(rest), 1
    for axis in reversed(range(ndim)):
        along = rest % kernel[axis] * dilation[axis]
        index = index + factor * (
            _window_starts(tap.shape[axis - ndim], stride[axis], axis - ndim, tap) + along
        )
        rest, factor = rest // kernel[axis], factor * size[axis]
    return index


@pool_argmax.register_fake
def _(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    ndim = len(kernel)
    sizes = zip(x.shape[-ndim:], kernel, stride, dilation, strict=True)
    size = [(s - d * (k - 1) - 1) // step + 1 for s, k, step, d in sizes]
    return x.new_empty(*x.shape[:-ndim], *size, dtype=torch.int32)


@pool_gather.register_fake
def _(x: Tensor, tap: Tensor, kernel: object, stride: object, dilation: object) -> Tensor:
    return x.new_empty(tap.shape)


@pool_scatter.register_fake
def _(
    g: Tensor, tap: Tensor, kernel: Sequence[int], stride: object, dilation: object, size: Sequence[int]
) -> Tensor:
    return g.new_empty(*g.shape[: -len(kernel)], *size)


Inputs = tuple[Tensor, Tensor, Sequence[int], Sequence[int], Sequence[int], *tuple[Sequence[int], ...]]


def _save_gather(ctx: Context, inputs: Inputs, output: Tensor) -> None:
    x, tap, kernel, *_ = inputs
    ctx.geometry = inputs[2:5]
    ctx.spatial = x.shape[-len(kernel) :]
    ctx.save_for_backward(tap)


def _save_scatter(ctx: Context, inputs: Inputs, output: Tensor) -> None:
    ctx.geometry = inputs[2:5]
    ctx.save_for_backward(inputs[1])


def _gather_gradient(ctx: Context, g: Tensor) -> Grads:
    (tap,) = ctx.saved_tensors
    return pool_scatter(g, tap, *ctx.geometry, ctx.spatial), None, None, None, None


def _scatter_gradient(ctx: Context, g: Tensor) -> Grads:
    (tap,) = ctx.saved_tensors
    return pool_gather(g, tap, *ctx.geometry), None, None, None, None, None


pool_gather.register_autograd(_gather_gradient, setup_context=_save_gather)
pool_scatter.register_autograd(_scatter_gradient, setup_context=_save_scatter)


def _mapped(operator: Callable[..., Tensor], count: int) -> Callable[..., tuple[Tensor, int]]:
    """The rule of `vmap` for an operator whose first `count` arguments are tensors: the mapped axis is one more row."""

    def rule(info: VmapInfo, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        return operator(*batch_axis_first(info, in_dims, args[:count]), *args[count:]), 0

    return rule


for _operator, _count in ((pool_argmax, 1), (pool_gather, 2), (pool_scatter, 2)):
    _operator.register_vmap(_mapped(_operator, _count))
