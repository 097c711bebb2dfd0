"""Comparing the tensors of a model directory with those that a learner has: names, shapes and types."""

from __future__ import annotations

import torch

from ..inner.learner import Learner
from ..models.network import Params
from .manifest import sha256

__all__ = ["Outline", "differences", "equal", "frozen", "outline", "precision"]

Outline = dict[str, tuple[tuple[int, ...], torch.dtype]]

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def outline(values: Params, dtype: torch.dtype | None = None) -> Outline:
    """Shape and type of each tensor; floating ones of type `dtype` if that is given."""
    return {
        name: (tuple(value.shape), dtype if dtype and value.is_floating_point() else value.dtype)
        for name, value in values.items()
    }


def precision(values: Params) -> torch.dtype | None:
    """The floating type of all tensors; `None` where they have several, none, or one that cannot compute."""
    types = {value.dtype for value in values.values() if value.is_floating_point()}
    return types.pop() if len(types) == 1 and types <= _FLOATS else None


def equal(one: Params, other: Params) -> bool:
    """Whether names, shapes, types and values are the same, on whatever devices."""
    same = outline(one) == outline(other)
    return same and all(torch.equal(one[name].cpu(), other[name].cpu()) for name in one)


def differences(actual: Outline, expected: Outline) -> str:
    """The first five differences in words; empty where there is none."""
    words = [f"{name!r} is missing" for name in sorted(expected.keys() - actual.keys())]
    words += [f"{name!r} is not of this learner" for name in sorted(actual.keys() - expected.keys())]
    for name, (shape, dtype) in expected.items():
        if name in actual and actual[name] != (shape, dtype):
            words.append(f"{name!r} is {actual[name][1]} {list(actual[name][0])}, not {dtype} {list(shape)}")
    return ", ".join(words[:5]) + (f" and {len(words) - 5} more" if len(words) > 5 else "")


def frozen(learner: Learner) -> str | None:
    """The sha256 of what a module of the user's own holds besides its trainable parameters."""
    if (learner.recipe or {}).get("model") != "external":
        return None
    parts = [b""]
    for name, value in sorted(learner.network.constants.items()):
        exact = value.double() if value.is_floating_point() else value
        parts += [f"{name} {tuple(value.shape)} ".encode(), exact.cpu().contiguous().numpy().tobytes()]
    return sha256(b"".join(parts))
