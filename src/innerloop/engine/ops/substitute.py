"""Put operators closed under differentiation in place of torch's own, while a graph is traced.

torch's convolutions, pooling and interpolation have derivatives that are other operators, with derivatives of their own
that have no form in C. What replaces them here consists of operators whose derivatives are operators of the same kind.
The place to add another: an entry of `_SUBSTITUTES`; what replaces a function returns `None` where it does not cover
the arguments, so that torch's own operator stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .convolution import conv, conv_input
from .pooling import pool_argmax, pool_gather
from .separable import (
    MODES,
    along_axes,
    average_matrix,
    band_matrix,
    block_means,
    interpolation_matrix,
    repeated,
)

__all__ = ["closed_operators"]

# one number, or one for each spatial axis
Sizes = int | Sequence[int]


class closed_operators(TorchFunctionMode):  # noqa: N801 - used as a context, like a function
    """Inside, convolutions, pooling and interpolation are operators closed under differentiation.

    It acts on functions of torch, hence on the modules that call them: `nn.Conv2d`, `nn.ConvTranspose2d`,
    `nn.MaxPool2d`, `nn.AvgPool2d`, `nn.Upsample` and their like for one and three axes.

    Example:
        >>> x, w = torch.ones(1, 1, 4), torch.ones(1, 1, 3, requires_grad=True)
        >>> with closed_operators():
        ...     y = torch.conv1d(x, w)
        >>> (slope,) = torch.autograd.grad(y.sum(), w)
        >>> y.tolist(), slope.tolist()
        ([[[3.0, 3.0]]], [[[2.0, 2.0, 2.0]]])
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> Any:
        """Run a function of torch, or what replaces it."""
        substitute = _SUBSTITUTES.get(func)
        result = None if substitute is None else substitute(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is None else result


# ---- convolutions ----------------------------------------------------------------------------------------------


def _convolution(
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor | None:
    """A convolution by `conv`; the bias is added afterwards, and padding in words is put around the input before."""
    if input.dim() != ndim + 2:
        return None
    steps, gaps = _per_axis(stride, ndim), _per_axis(dilation, ndim)
    if isinstance(padding, str):
        spans = [gap * (k - 1) for gap, k in zip(gaps, weight.shape[2:], strict=True)]
        if padding == "same":
            input = functional.pad(input, [side for s in reversed(spans) for side in (s // 2, s - s // 2)])
        padding = 0
    geometry = (steps, _per_axis(padding, ndim), gaps)
    if groups == 1:
        y: Tensor = conv(input, weight, *geometry)
    else:
        y = _joined(conv(_apart(input, groups), _split(weight, 0, groups), *geometry))
    return y if bias is None else y + bias.reshape(-1, *(1,) * ndim)


def _transposed_convolution(
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor | None:
    """A transposed convolution by `conv_input`: the gradient of a convolution by its input."""
    if input.dim() != ndim + 2:
        return None
    geometry = [_per_axis(sizes, ndim) for sizes in (stride, padding, dilation)]
    more = _per_axis(output_padding, ndim)
    axes = zip(input.shape[2:], weight.shape[2:], *geometry, more, strict=True)
    size = [(n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in axes]
    if groups == 1:
        y: Tensor = conv_input(input, weight, *geometry, size)
    else:
        y = _joined(conv_input(_apart(input, groups), _split(weight, 0, groups), *geometry, size))
    return y if bias is None else y + bias.reshape(-1, *(1,) * ndim)


def _apart(x: Tensor, groups: int) -> Tensor:
    """`(N, G C, *S)` as `(G, N, C, *S)`: groups are stacked as tasks are."""
    return _split(x, 1, groups).transpose(0, 1)


def _split(x: Tensor, axis: int, groups: int) -> Tensor:
    """One axis as two, the groups first."""
    return x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :])


def _joined(y: Tensor) -> Tensor:
    """The way back from `_apart`."""
    return y.transpose(0, 1).flatten(1, 2)


# ---- pooling ---------------------------------------------------------------------------------------------------


def _max_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """Max-pooling by argmax and gather; padding is put around the input before, smaller than any number."""
    if return_indices or input.dim() != ndim + 2 or not input.is_floating_point():
        return None
    kernel, gaps = _per_axis(kernel_size, ndim), _per_axis(dilation, ndim)
    steps, sides = _per_axis(stride or kernel, ndim), _per_axis(padding, ndim)
    ends = [
        _beyond(n, gap * (k - 1) + 1, step, side) if ceil_mode else 0
        for n, k, step, side, gap in zip(input.shape[2:], kernel, steps, sides, gaps, strict=True)
    ]
    if any(sides) or any(ends):
        pads = [number for side, end in zip(sides, ends, strict=True) for number in (side + end, side)]
        input = functional.pad(input, pads[::-1], value=-math.inf)
    pooled: Tensor = pool_gather(input, pool_argmax(input.detach(), kernel, steps, gaps), kernel, steps, gaps)
    return pooled


def _beyond(size: int, span: int, step: int, side: int) -> int:
    """How far the last window of `ceil_mode` reaches beyond the padding; it begins inside."""
    windows = -(-(size + 2 * side - span) // step) + 1
    if (windows - 1) * step >= size + side:
        windows -= 1
    return max((windows - 1) * step + span - size - 2 * side, 0)


def _average_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    """Average pooling: means of blocks, or products with a matrix along each axis where windows overlap."""
    if divisor_override is not None or not input.is_floating_point():
        return None
    kernel, sides = _per_axis(kernel_size, ndim), _per_axis(padding, ndim)
    steps = _per_axis(stride or kernel, ndim)
    if steps == kernel and not any(sides) and not ceil_mode:
        return block_means(input, kernel)
    matrices = [
        average_matrix(*axis, ceil=ceil_mode, whole=count_include_pad)
        for axis in zip(input.shape[-ndim:], kernel, steps, sides, strict=True)
    ]
    return along_axes(input, matrices)


def _adaptive_pool(ndim: int, input: Tensor, output_size: Sizes | Sequence[int | None]) -> Tensor | None:
    """Average pooling to a size: means of blocks where it divides that of the input."""
    given = [output_size] * ndim if isinstance(output_size, int) or output_size is None else list(output_size)
    sizes = [n if out is None else out for n, out in zip(input.shape[-ndim:], given, strict=True)]
    if any(n % out for n, out in zip(input.shape[-ndim:], sizes, strict=True)):
        axes = zip(input.shape[-ndim:], sizes, strict=True)
        return along_axes(input, [interpolation_matrix(n, out, None, "area", None) for n, out in axes])
    return block_means(input, [n // out for n, out in zip(input.shape[-ndim:], sizes, strict=True)])


# ---- interpolation and local normalisation ---------------------------------------------------------------------


def _interpolate(
    input: Tensor,
    size: Sizes | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor | None:
    """Interpolation by a matrix along each axis; whole factors of the nearest neighbour by repetition."""
    ndim = input.dim() - 2
    if antialias or recompute_scale_factor or mode not in MODES or not input.is_floating_point():
        return None
    sizes = [None] * ndim if size is None else _per_axis(size, ndim)
    factors = [scale_factor] * ndim if not isinstance(scale_factor, Sequence) else list(scale_factor)
    if mode == "nearest" and size is None and all(float(f or 0.5).is_integer() for f in factors):
        return repeated(input, [int(f or 1) for f in factors])
    axes = zip(input.shape[2:], sizes, factors, strict=True)
    return along_axes(input, [interpolation_matrix(n, out, f, mode, align_corners) for n, out, f in axes])


def _local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Local response normalisation: a mean over neighbouring channels is a product with a band matrix."""
    means = along_axes(input.square().movedim(1, -1), [band_matrix(input.shape[1], size)]).movedim(-1, 1)
    return input / (k + alpha * means).pow(beta)


def _per_axis(value: Sizes, ndim: int) -> list[int]:
    """A setting for every spatial axis, given one number or one for each."""
    if isinstance(value, int):
        return [value] * ndim
    return [*value] * (ndim if len(value) == 1 else 1)


# functions of torch that are replaced, and what replaces them
_SUBSTITUTES: dict[Callable[..., object], Callable[..., Tensor | None]] = {
    **{getattr(torch, f"conv{n}d"): partial(_convolution, n) for n in (1, 2, 3)},
    **{getattr(torch, f"conv_transpose{n}d"): partial(_transposed_convolution, n) for n in (1, 2, 3)},
    **{getattr(home, f"max_pool{n}d"): partial(_max_pool, n) for home in (torch, functional) for n in (1, 2)},
    **{getattr(functional, f"avg_pool{n}d"): partial(_average_pool, n) for n in (1, 2, 3)},
    **{getattr(functional, f"adaptive_avg_pool{n}d"): partial(_adaptive_pool, n) for n in (1, 2, 3)},
    functional.interpolate: _interpolate,
    functional.local_response_norm: _local_response_norm,
}
