"""Put operators closed under differentiation in place of torch's own convolution and max-pooling, while tracing.

The place to add another such operator: a function of torch that is to be replaced goes into a table here, and what
replaces it returns `None` where it does not cover the arguments, so that torch's own operator stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .convolution import conv
from .pooling import pool_argmax, pool_gather

__all__ = ["closed_operators"]

# arguments of a function of torch, by name
Named = Mapping[str, Any]
# functions that are replaced, with their number of spatial axes
_CONVOLUTIONS: dict[Callable[..., object], int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_POOLS: dict[Callable[..., object], int] = {functional.max_pool1d: 1, functional.max_pool2d: 2}
_POOLS |= {torch.max_pool1d: 1, torch.max_pool2d: 2}
# names and defaults of the arguments after the input
_CONVOLUTION = ("weight", "bias", "stride", "padding", "dilation", "groups"), (None, None, 1, 0, 1, 1)
_POOL_NAMES = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_POOL = _POOL_NAMES, (None, None, 0, 1, False, False)


class closed_operators(TorchFunctionMode):  # noqa: N801 - used as a context, like a function
    """Inside, convolutions without groups and plain max-pooling are operators closed under differentiation.

    It acts on `torch.conv1d` to `conv3d` and on `max_pool1d` and `max_pool2d`, hence on `nn.Conv2d` and `nn.MaxPool2d`
    in any module. Groups, padding in words, padded pooling and `ceil_mode` keep torch's own operators.

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
        args: tuple[Any, ...] = (),
        kwargs: Named | None = None,
    ) -> object:
        """Run a function of torch, or what replaces it."""
        given = dict(kwargs or {})
        result = None
        if func in _CONVOLUTIONS:
            result = _convolution(_CONVOLUTIONS[func], *_bound(*_CONVOLUTION, args, given))
        elif func in _POOLS:
            result = _pool(_POOLS[func], *_bound(*_POOL, args, given))
        return func(*args, **given) if result is None else result


def _bound(
    names: Sequence[str], defaults: Sequence[object], args: Sequence[Any], given: Named
) -> tuple[Tensor, Named]:
    """The input, and all other arguments by name."""
    x, *rest = (*args, *([given["input"]] if "input" in given else []))
    return x, dict(zip(names, defaults, strict=True)) | dict(zip(names, rest, strict=False)) | dict(given)


def _convolution(ndim: int, x: Tensor, given: Named) -> Tensor | None:
    """A convolution by `conv`, where it has no groups; the bias is added afterwards."""
    geometry = [_per_axis(given[name], ndim) for name in ("stride", "padding", "dilation")]
    if x.dim() != ndim + 2 or given["groups"] != 1 or isinstance(given["padding"], str):
        return None
    y: Tensor = conv(x, given["weight"], *geometry)
    return y if given["bias"] is None else y + given["bias"].reshape(-1, *(1,) * ndim)


def _pool(ndim: int, x: Tensor, given: Named) -> Tensor | None:
    """Max-pooling by argmax and gather, where it is not padded."""
    if given["ceil_mode"] or given["return_indices"] or any(_per_axis(given["padding"], ndim)):
        return None
    kernel = _per_axis(given["kernel_size"], ndim)
    geometry = (kernel, _per_axis(given["stride"] or kernel, ndim), _per_axis(given["dilation"], ndim))
    if x.dim() != ndim + 2:
        return None
    pooled: Tensor = pool_gather(x, pool_argmax(x.detach(), *geometry), *geometry)
    return pooled


def _per_axis(value: int | Sequence[int], ndim: int) -> list[int]:
    """A setting for every spatial axis, given one number or one for each."""
    if isinstance(value, int):
        return [value] * ndim
    return [*value] * (ndim if len(value) == 1 else 1)
