r"""Convolution as three operators that are each other's derivatives, for many tasks at once.

For $y = x * w$ the gradients are $g_x$ = `conv_input(g, w)` and $g_w$ = `conv_weight(g, x)`. All three are parts of one
trilinear form $\langle g, x * w \rangle$, so that every derivative of each, of any order, is again one of the three:
nothing else appears in the graph of a meta-update. torch's own rules have no task axis and leave the triple in
second order.

Tensors are plain, `(N, C, *S)` with weights `(O, C, *K)`, or stacked, with a leading axis of tasks on both; `vmap`
turns the one into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


# ---- the operators ---------------------------------------------------------------------------------------------


@torch.library.custom_op("innerloop::conv", mutates_args=())
def conv(
    x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """$y = x * w$: a convolution without bias and groups."""
    if not _stacked(x, stride):
        return torch.convolution(x, w, None, stride, padding, dilation, False, [0], 1)
    if w.shape[0] and not w.stride(0):  # all tasks share the weights: one convolution over all rows
        y: Tensor = conv(x.flatten(0, 1), w[0], stride, padding, dilation)
        return y.reshape(*x.shape[:2], *y.shape[1:])
    y = torch.convolution(_wide(x), w.flatten(0, 1), None, stride, padding, dilation, False, [0], len(x))
    return _narrow(y, len(x))


@torch.library.custom_op("innerloop::conv_input", mutates_args=())
def conv_input(
    g: Tensor,
    w: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    r"""What $\langle g, x * w \rangle$ is linear in $x$ by; `size` is that of the places of `x`."""
    if _stacked(g, stride) and w.shape[0] and not w.stride(0):
        x: Tensor = conv_input(g.flatten(0, 1), w[0], stride, padding, dilation, size)
        return x.reshape(*g.shape[:2], *x.shape[1:])
    like = g.new_empty(()).expand(*g.shape[: -len(size) - 1], w.shape[-len(size) - 1], *size)
    return _backward(g, like, w, (stride, padding, dilation), 0)


@torch.library.custom_op("innerloop::conv_weight", mutates_args=())
def conv_weight(
    g: Tensor,
    x: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    r"""What $\langle g, x * w \rangle$ is linear in $w$ by; `size` is that of the places of `w`."""
    places = len(size)
    channels = (g.shape[-places - 1], x.shape[-places - 1])
    like = g.new_empty(()).expand(*g.shape[: -places - 2], *channels, *size)
    return _backward(g, x, like, (stride, padding, dilation), 1)


def _backward(g: Tensor, x: Tensor, w: Tensor, how: tuple[Sequence[int], ...], which: int) -> Tensor:
    """The gradient by `x` (0) or `w` (1); tasks are groups of one convolution."""
    mask = [which == 0, which == 1, False]
    if not _stacked(g, how[0]):
        found: Tensor = _aten.convolution_backward(g, x, w, None, *how, False, [0], 1, mask)[which]
        return found
    tasks = len(g)
    wide = (_wide(g), _wide(x), w.flatten(0, 1))
    found = _aten.convolution_backward(*wide, None, *how, False, [0], tasks, mask)[which]
    return found.reshape(w.shape) if which else _narrow(found, tasks)


def _stacked(x: Tensor, stride: Sequence[int]) -> bool:
    return x.dim() == len(stride) + 3


def _wide(x: Tensor) -> Tensor:
    """`(T, N, C, *S)` as `(N, T C, *S)`."""
    return x.transpose(0, 1).flatten(1, 2)


def _narrow(x: Tensor, tasks: int) -> Tensor:
    rows, _, *places = x.shape
    return x.reshape(rows, tasks, -1, *places).transpose(0, 1).contiguous()


# ---- shapes ----------------------------------------------------------------------------------------------------


def places_of(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Places of the result of a convolution along every axis.

    Example:
        >>> places_of([28, 28], [3, 3], [2, 2], [1, 1], [1, 1])
        [14, 14]
    """
    sizes = zip(size, kernel, stride, padding, dilation, strict=True)
    return [(s + 2 * p - d * (k - 1) - 1) // step + 1 for s, k, step, p, d in sizes]


@conv.register_fake
def _(x: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    places = len(stride)
    size = places_of(x.shape[-places:], w.shape[-places:], stride, padding, dilation)
    return x.new_empty(*x.shape[: -places - 1], w.shape[-places - 2], *size)


@conv_input.register_fake
def _(g: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any, size: Any) -> Tensor:
    return g.new_empty(*g.shape[: -len(size) - 1], w.shape[-len(size) - 1], *size)


@conv_weight.register_fake
def _(g: Tensor, x: Tensor, stride: Any, padding: Any, dilation: Any, size: Any) -> Tensor:
    places = len(size)
    return g.new_empty(*g.shape[: -places - 2], g.shape[-places - 1], x.shape[-places - 1], *size)


# ---- derivatives -----------------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *how = inputs
    ctx.save_for_backward(first, second)
    ctx.how = how[:3]


def _conv_gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, w = ctx.saved_tensors
    places = len(ctx.how[0])
    by_x, by_w = ctx.needs_input_grad[:2]
    return (
        conv_input(g, w, *ctx.how, x.shape[-places:]) if by_x else None,
        conv_weight(g, x, *ctx.how, w.shape[-places:]) if by_w else None,
        *(None, None, None),
    )


def _input_gradient(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    g, w = ctx.saved_tensors
    by_g, by_w = ctx.needs_input_grad[:2]
    return (
        conv(u, w, *ctx.how) if by_g else None,
        conv_weight(g, u, *ctx.how, w.shape[-len(ctx.how[0]) :]) if by_w else None,
        *(None, None, None, None),
    )


def _weight_gradient(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    g, x = ctx.saved_tensors
    by_g, by_x = ctx.needs_input_grad[:2]
    return (
        conv(x, v, *ctx.how) if by_g else None,
        conv_input(g, v, *ctx.how, x.shape[-len(ctx.how[0]) :]) if by_x else None,
        *(None, None, None, None),
    )


conv.register_autograd(_conv_gradient, setup_context=_save)
conv_input.register_autograd(_input_gradient, setup_context=_save)
conv_weight.register_autograd(_weight_gradient, setup_context=_save)


# ---- vmap ------------------------------------------------------------------------------------------------------


def _mapped(op: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, int]]:
    """The rule of `vmap`: the mapped axis is the axis of tasks, or one with it."""

    def rule(info: Any, dims: tuple[Any, ...], one: Tensor, other: Tensor, *how: Any) -> tuple[Tensor, int]:
        pair = [
            tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
            for tensor, dim in zip((one, other), dims, strict=False)
        ]
        if pair[0].dim() <= len(how[0]) + 3:
            return op(*pair, *how), 0
        found = op(*(tensor.flatten(0, 1) for tensor in pair), *how)
        return found.reshape(*pair[0].shape[:2], *found.shape[1:]), 0

    return rule


for _operator in (conv, conv_input, conv_weight):
    _operator.register_vmap(_mapped(_operator))
