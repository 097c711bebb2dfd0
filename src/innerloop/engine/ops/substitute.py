"""Convolutions and max-pooling by operators whose derivatives are such operators again, in place of torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .convolution import conv
from .pooling import chosen, taken

_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_POOLS = {functional.max_pool1d: 1, functional.max_pool2d: 2, torch.max_pool1d: 1, torch.max_pool2d: 2}
# arguments by position, the input aside, and what they are unless given
_OF_CONVOLUTION = {"weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_OF_POOL = {"kernel_size": None, "stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
_OF_POOL |= {"return_indices": False}


class closed_operators(TorchFunctionMode):  # noqa: N801 - used as a context, like a function
    """Inside, convolutions without groups and plain max-pooling are operators of this package.

    Example:
        >>> x, w = torch.ones(1, 1, 4), torch.ones(1, 1, 3, requires_grad=True)
        >>> with closed_operators():
        ...     y = torch.conv1d(x, w)
        >>> (slope,) = torch.autograd.grad(y.sum(), w)
        >>> y.tolist(), slope.tolist()
        ([[[3.0, 3.0]]], [[[2.0, 2.0, 2.0]]])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace what is known here."""
        given = dict(kwargs or {})
        found = None
        if func in _CONVOLUTIONS:
            found = _convolution(_CONVOLUTIONS[func], *_settings(_OF_CONVOLUTION, args, given))
        elif func in _POOLS:
            found = _pool(_POOLS[func], *_settings(_OF_POOL, args, given))
        return func(*args, **given) if found is None else found


def _settings(
    names: dict[str, Any], args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    x, *rest = (*args, *([given["input"]] if "input" in given else []))
    return x, {**names, **dict(zip(names, rest, strict=False)), **given}


def _convolution(places: int, x: Tensor, given: dict[str, Any]) -> Tensor | None:
    how = [_each(given[name], places) for name in ("stride", "padding", "dilation")]
    if x.dim() != places + 2 or given["groups"] != 1 or isinstance(given["padding"], str):
        return None
    y: Tensor = conv(x, given["weight"], *how)
    return y if given["bias"] is None else y + given["bias"].reshape(-1, *(1,) * places)


def _pool(places: int, x: Tensor, given: dict[str, Any]) -> Tensor | None:
    if given["ceil_mode"] or given["return_indices"] or any(_each(given["padding"], places)):
        return None
    kernel = _each(given["kernel_size"], places)
    how = (kernel, _each(given["stride"] or kernel, places), _each(given["dilation"], places))
    if x.dim() != places + 2:
        return None
    found: Tensor = taken(x, chosen(x.detach(), *how), *how)
    return found


def _each(value: Any, places: int) -> list[int]:
    """A setting for every axis."""
    if isinstance(value, int):
        return [value] * places
    return [*value] * (places if len(value) == 1 else 1)
