"""Autocast: networks multiply matrices and convolve in their own precision, or in bfloat16 by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

from ..errors import check_known

__all__ = ["PRECISIONS", "multiplying", "products", "products_in"]

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
_PRODUCTS: ContextVar[str] = ContextVar("products", default="float32")


@contextmanager
def products_in(name: str) -> Iterator[None]:
    """Inside, networks of float32 run under autocast to a precision.

    Arguments:
        name: one of `PRECISIONS`.

    Raises:
        UsageError: the name is unknown.

    Example:
        >>> import innerloop as il
        >>> net = il.models.Network(torch.nn.Linear(1, 1, bias=False))
        >>> third = {"weight": torch.full((1, 1), 1 / 3)}
        >>> with products_in("bfloat16"):
        ...     net(third, {}, torch.ones(1, 1, 1))[0].item()
        0.333984375
    """
    check_known("precision", name, PRECISIONS)
    token = _PRODUCTS.set(name)
    try:
        yield
    finally:
        _PRODUCTS.reset(token)


def products() -> str:
    """The precision networks multiply in.

    Example:
        >>> products()
        'float32'
    """
    return _PRODUCTS.get()


def multiplying(like: Tensor) -> AbstractContextManager[None]:
    """The autocast context of a network with such parameters; none where products have their own precision."""
    chosen = PRECISIONS[products()]
    if chosen is None or like.dtype != torch.float32:
        return nullcontext()
    # autocast caches a cast by its tensor, and the same fast weight comes with and without a gradient
    return torch.autocast(like.device.type, chosen, cache_enabled=False)
