r"""Convolution as three operators that are each other's derivatives, for many tasks at once.

For $y = x * w$ the gradients are $g_x$ = `conv_input(g, w)`, the transposed convolution, and
$g_w$ = `conv_weight(g, x)`. All three are parts of one trilinear form $\langle g, x * w \rangle$, so that every
derivative of each, of any order, is again one of the three: nothing else appears in the graph of a meta-update.
torch's own rules have no task axis and leave the triple in second order.

Tensors are plain, `(N, C, *S)` with weights `(O, C, *K)` and spatial axes `*S`, or stacked, with a leading axis of
tasks on both; `vmap` makes the second of the first. Stacked tasks are the groups of one grouped convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .registration import Context, Grads, VmapInfo, batch_axis_first

__all__ = ["conv", "conv_input", "conv_weight", "output_size"]

_aten = torch.ops.aten


@torch.library.custom_op("innerloop::conv", mutates_args=())
def conv(
    x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """$y = x * w$: a convolution without bias and groups.

    Arguments:
        x: images, `(N, C, *S)` or `(T, N, C, *S)`.
        w: weights, `(O, C, *K)` or `(T, O, C, *K)`.
        stride: one number for each spatial axis.
        padding: likewise, zeros before and after.
        dilation: likewise, from tap to tap.

    Returns:
        `(N, O, *)` or `(T, N, O, *)`, see `output_size`.

    Example:
        >>> conv(torch.ones(1, 1, 4), torch.ones(1, 1, 3), [1], [0], [1]).tolist()
        [[[3.0, 3.0]]]
    """
    if not _is_stacked(x, stride):
        return torch.convolution(x, w, None, stride, padding, dilation, False, [0], 1)
    if w.shape[0] and not w.stride(0):  # all tasks share the weights: one convolution over all rows
        y: Tensor = conv(x.flatten(0, 1), w[0], stride, padding, dilation)
        return y.reshape(*x.shape[:2], *y.shape[1:])
    y = torch.convolution(
        _tasks_to_groups(x), w.flatten(0, 1), None, stride, padding, dilation, False, [0], len(x)
    )
    return _groups_to_tasks(y, len(x))


@torch.library.custom_op("innerloop::conv_input", mutates_args=())
def conv_input(
    g: Tensor,
    w: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    r"""The gradient of $\langle g, x * w \rangle$ by $x$ (transposed convolution), `x` of spatial `size`."""
    if _is_stacked(g, stride) and w.shape[0] and not w.stride(0):
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
    r"""The gradient of $\langle g, x * w \rangle$ by $w$, the kernel of spatial `size`."""
    ndim = len(size)
    channels = (g.shape[-ndim - 1], x.shape[-ndim - 1])
    like = g.new_empty(()).expand(*g.shape[: -ndim - 2], *channels, *size)
    return _backward(g, x, like, (stride, padding, dilation), 1)


def _backward(g: Tensor, x: Tensor, w: Tensor, geometry: tuple[Sequence[int], ...], which: int) -> Tensor:
    """The gradient by `x` (0) or `w` (1), by torch's kernel; tasks are groups of one convolution."""
    mask = [which == 0, which == 1, False]
    if not _is_stacked(g, geometry[0]):
        grad: Tensor = _aten.convolution_backward(g, x, w, None, *geometry, False, [0], 1, mask)[which]
        return grad
    tasks = len(g)
    grouped = (_tasks_to_groups(g), _tasks_to_groups(x), w.flatten(0, 1))
    grad = _aten.convolution_backward(*grouped, None, *geometry, False, [0], tasks, mask)[which]
    return grad.reshape(w.shape) if which else _groups_to_tasks(grad, tasks)


def _is_stacked(x: Tensor, stride: Sequence[int]) -> bool:
    """Whether images have a leading axis of tasks."""
    return x.dim() == len(stride) + 3


def _tasks_to_groups(x: Tensor) -> Tensor:
    """`(T, N, C, *S)` as `(N, T C, *S)`: the channels of all tasks beside each other."""
    return x.transpose(0, 1).flatten(1, 2)


def _groups_to_tasks(x: Tensor, tasks: int) -> Tensor:
    """The way back from `_tasks_to_groups`, contiguous."""
    rows, _, *spatial = x.shape
    return x.reshape(rows, tasks, -1, *spatial).transpose(0, 1).contiguous()


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """The size of the result of a convolution along every spatial axis.

    Example:
        >>> output_size([28, 28], [3, 3], [2, 2], [1, 1], [1, 1])
        [14, 14]
    """
    sizes = zip(size, kernel, stride, padding, dilation, strict=True)
    return [(s + 2 * p - d * (k - 1) - 1) // step + 1 for s, k, step, p, d in sizes]


@conv.register_fake
def _(x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Tensor:
    ndim = len(stride)
    size = output_size(x.shape[-ndim:], w.shape[-ndim:], stride, padding, dilation)
    return x.new_empty(*x.shape[: -ndim - 1], w.shape[-ndim - 2], *size)


@conv_input.register_fake
def _(g: Tensor, w: Tensor, stride: object, padding: object, dilation: object, size: Sequence[int]) -> Tensor:
    return g.new_empty(*g.shape[: -len(size) - 1], w.shape[-len(size) - 1], *size)


@conv_weight.register_fake
def _(g: Tensor, x: Tensor, stride: object, padding: object, dilation: object, size: Sequence[int]) -> Tensor:
    ndim = len(size)
    return g.new_empty(*g.shape[: -ndim - 2], g.shape[-ndim - 1], x.shape[-ndim - 1], *size)


def _save(ctx: Context, inputs: tuple[Tensor, Tensor, *tuple[Sequence[int], ...]], output: Tensor) -> None:
    """Keep the two operands, and stride, padding and dilation."""
    first, second, *sizes = inputs
    ctx.save_for_backward(first, second)
    ctx.geometry = sizes[:3]


def _conv_gradient(ctx: Context, g: Tensor) -> Grads:
    """By `x` the transposed convolution with `w`, by `w` the correlation with `x`."""
    x, w = ctx.saved_tensors
    ndim = len(ctx.geometry[0])
    by_x, by_w = ctx.needs_input_grad[:2]
    return (
        conv_input(g, w, *ctx.geometry, x.shape[-ndim:]) if by_x else None,
        conv_weight(g, x, *ctx.geometry, w.shape[-ndim:]) if by_w else None,
        *(None, None, None),
    )


def _input_gradient(ctx: Context, u: Tensor) -> Grads:
    """The transpose of the transpose is the convolution itself."""
    g, w = ctx.saved_tensors
    by_g, by_w = ctx.needs_input_grad[:2]
    return (
        conv(u, w, *ctx.geometry) if by_g else None,
        conv_weight(g, u, *ctx.geometry, w.shape[-len(ctx.geometry[0]) :]) if by_w else None,
        *(None, None, None, None),
    )


def _weight_gradient(ctx: Context, v: Tensor) -> Grads:
    """Linear in `g` and in `x`: by either, the other one with `v` in the place of the weights."""
    g, x = ctx.saved_tensors
    by_g, by_x = ctx.needs_input_grad[:2]
    return (
        conv(x, v, *ctx.geometry) if by_g else None,
        conv_input(g, v, *ctx.geometry, x.shape[-len(ctx.geometry[0]) :]) if by_x else None,
        *(None, None, None, None),
    )


conv.register_autograd(_conv_gradient, setup_context=_save)
conv_input.register_autograd(_input_gradient, setup_context=_save)
conv_weight.register_autograd(_weight_gradient, setup_context=_save)


def _mapped(operator: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, int]]:
    """The rule of `vmap`: the mapped axis is the axis of tasks, or one axis together with it."""

    def rule(
        info: VmapInfo, in_dims: Sequence[int | None], one: Tensor, other: Tensor, *sizes: Sequence[int]
    ) -> tuple[Tensor, int]:
        pair = batch_axis_first(info, in_dims, (one, other))
        if pair[0].dim() <= len(sizes[0]) + 3:
            return operator(*pair, *sizes), 0
        result = operator(*(tensor.flatten(0, 1) for tensor in pair), *sizes)
        return result.reshape(*pair[0].shape[:2], *result.shape[1:]), 0

    return rule


for _operator in (conv, conv_input, conv_weight):
    _operator.register_vmap(_mapped(_operator))
