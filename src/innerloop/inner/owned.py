"""Values that tasks own in one stack, where some have as many rows as their task has support rows.

An axis of length 0 in `Learner.own_like` is open: it counts support rows of the task, or fewer. Zeros behind the rows
of a task change nothing, so that a stack is filled up with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..models.network import Params

__all__ = ["length_of", "of_task", "open_axes", "stack_owned"]


def open_axes(like: Params) -> dict[str, tuple[int, ...]]:
    """The axes of each value that count support rows, from what `own_like` returns; values without any are left out.

    Example:
        >>> open_axes({"rows": torch.zeros(1, 0, 2), "level": torch.zeros(1, 1)})
        {'rows': (1,)}
    """
    axes = {
        name: tuple(axis for axis, size in enumerate(value.shape) if size == 0)
        for name, value in like.items()
    }
    return {name: found for name, found in axes.items() if found}


def length_of(own: Params, axes: dict[str, tuple[int, ...]]) -> int:
    """How long the open axes of one task's values are; 0 where there are none."""
    return max(
        (own[name].shape[axis] for name, found in axes.items() if name in own for axis in found), default=0
    )


def stack_owned(owned: Sequence[Params]) -> Params:
    """The values of several tasks, `(1, ...)` each, as one stack `(T, ...)`, shorter ones filled up with zeros.

    Example:
        >>> stack_owned([{"rows": torch.ones(1, 1)}, {"rows": torch.ones(1, 2)}])["rows"].tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    stacked: Params = {}
    for name in owned[0]:
        values = [own[name] for own in owned]
        shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
        stacked[name] = torch.cat([_filled(value, shape[1:]) for value in values])
    return stacked


def of_task(stacked: Params, task: int, axes: dict[str, tuple[int, ...]], rows: int) -> Params:
    """The values of one task of a stack, `(1, ...)`, open axes cut to its `rows` support rows."""
    own = {name: value[task : task + 1] for name, value in stacked.items()}
    for name, found in axes.items():
        for axis in found:
            own[name] = own[name].narrow(axis, 0, min(rows, own[name].shape[axis]))
    return own


def _filled(value: Tensor, shape: Sequence[int]) -> Tensor:
    """A value `(1, ...)` with zeros behind it on every axis that is too short."""
    missing = [size - own for size, own in zip(shape, value.shape[1:], strict=True)]
    return pad(value, [end for size in reversed(missing) for end in (0, size)]) if any(missing) else value
