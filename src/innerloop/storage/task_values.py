"""What adapted tasks own, as tensors of a model directory: a stack of each value, or its rows one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..inner.model import Model
from ..inner.owned import length_of, open_axes
from ..models.network import Params
from .plain_types import require
from .tensors import Outline, differences, outline

__all__ = ["MASK", "TASKS", "packed", "same_length", "unpacked"]

TASKS = "tasks/"  # before the names of what tasks own; parameters of modules have no slash so early
MASK = "mask/"  # before the names of parameters that refinement may have changed

# of each task, the length of the axes that count support rows; only where a learner has such axes
_LENGTHS = "lengths"


def packed(model: Model, owned: Sequence[Params]) -> Params:
    """The values of all tasks: `(T, ...)` each, and flat where tasks differ in length, with the lengths beside."""
    if not owned:
        return {}
    axes = open_axes(model.learner.own_like(model.meta))
    parts = {
        name: torch.cat([own[name].flatten() if name in axes else own[name] for own in owned])
        for name in owned[0]
    }
    if axes:
        parts[_LENGTHS] = torch.tensor([length_of(own, axes) for own in owned], device="cpu")
    return parts


def unpacked(model: Model, stored: Params, count: int) -> list[Params]:
    """The values of each of `count` tasks.

    Raises:
        ValueError: they are not those of this learner.
    """
    if not count:
        wrong = differences(outline(stored), {})
        require(not wrong, f"values of tasks: {wrong}")
        return []
    like = model.learner.own_like(model.meta)
    axes, expected = open_axes(like), outline(like)
    lengths = torch.zeros(count, dtype=torch.int64, device="cpu")
    if axes:
        lengths = stored.get(_LENGTHS, lengths[:0]).cpu()
        fits = lengths.dtype == torch.int64 and lengths.shape == (count,) and bool((lengths >= 0).all())
        require(fits, f"values of tasks: {_LENGTHS!r} does not say how many rows each task has")
        stored = {name: value for name, value in stored.items() if name != _LENGTHS}
    shapes = {
        name: [[length if size == 0 else size for size in shape] for length in lengths.tolist()]
        for name, (shape, _) in expected.items()
    }
    whole: Outline = {
        name: ((sum(map(math.prod, shapes[name])),) if name in axes else (count, *shape[1:]), dtype)
        for name, (shape, dtype) in expected.items()
    }
    wrong = differences(outline(stored), whole)
    require(not wrong, f"values of tasks: {wrong}")
    parts = {
        name: torch.split(
            stored[name].to(model.device), [math.prod(shape) if name in axes else 1 for shape in own]
        )
        for name, own in shapes.items()
    }
    return [
        {name: parts[name][task].reshape(shapes[name][task]) for name in expected} for task in range(count)
    ]


def same_length(own: Params, like: Params) -> Outline:
    """The outline that values of one task must have: open axes are as long as the longest of them."""
    length = length_of(own, open_axes(like))
    return {
        name: (tuple(length if size == 0 else size for size in shape), dtype)
        for name, (shape, dtype) in outline(like).items()
    }
