"""Where a part of a module begins, so that what comes before it is computed once for many passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from .layers import Context, draws

__all__ = ["entry_of", "independent", "watch_entry"]


def entry_of(module: nn.Module, names: Sequence[str]) -> str:
    """The innermost layer that holds all of these parameters; empty where that is the module itself, or it has dropout.

    Example:
        >>> entry_of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), ["1.weight", "1.bias"])
        '1'
        >>> entry_of(nn.Sequential(), ["0.layer.weight", "2.layer.weight"])
        ''
    """
    parts = [name.split(".")[:-1] for name in names]
    common = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return "" if draws(module) else ".".join(level[0] for level in common)


def independent(
    before: Callable[..., Tensor | None], values: dict[str, Tensor], names: Sequence[str]
) -> bool:
    """Whether what a layer is called with does not depend on these values: tried once.

    It must stay the same, to the bit, when they are NaN and the streams of random numbers are others.

    Arguments:
        before: (values, key) -> what the layer is called with, for one task.
        values: of all parameters by name.
        names: of those in question.
    """
    spoiled = {**values, **{name: torch.full_like(values[name], torch.nan) for name in names}}
    key = torch.zeros(1, dtype=torch.int64, device=next(iter(values.values())).device)
    with torch.no_grad():
        one, two = before(values, key=key), before(spoiled, key=key + 1)
    return one is not None and two is not None and torch.equal(one, two)


def watch_entry(layer: nn.Module, name: str, context: Context) -> None:
    """Have a layer say what it is called with, and take what the context gives in its place."""

    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if context.entry != name:
            return None
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        context.reached.append(args[0] if alone else None)
        return None if context.inside is None else ((context.inside,), {})

    layer.register_forward_pre_hook(enter, with_kwargs=True)
