"""Whether two computations of the same function agree within rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# two ways to round agree far better, but for a number on the other side of a kink (ReLU, max-pooling), which moves
# a gradient of few tasks by a percent; two different functions do not
_AGREEMENT = 5e-2


# of how far a result moves when its arguments are rounded otherwise, how much it may be off
_ROUNDINGS = 32


# up to which difference a kink may be the reason, and how far away, relatively, they are then compared again: a number
# falls on the other side of it at some places, two different functions differ at all
_KINK, _ELSEWHERE = 0.3, (1e-3, 2e-3)


def agree(one: Any, other: Any, rounding: Sequence[float] | None = None, *, most: float = _AGREEMENT) -> bool:
    """Whether two nests of tensors hold the same numbers up to rounding, compared tensor by tensor in norm.

    Arguments:
        one: a nest.
        other: a nest of the same structure.
        rounding: how much of each floating tensor is rounding, see `differences`; nothing unless given.
        most: how far a tensor may be off beside that.
    """
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in _pairs(one, other)):
        return False
    if any(not torch.equal(a, b) for a, b in _pairs(one, other) if not a.is_floating_point()):
        return False
    found = differences(one, other)
    allowed = [most + _ROUNDINGS * share for share in rounding or [0.0] * len(found)]
    return all(share <= limit for share, limit in zip(found, allowed, strict=True))


def differences(one: Any, other: Any) -> list[float]:
    """How far the floating tensors of two nests are apart, each in its norm.

    Example:
        >>> [round(share, 6) for share in differences([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])])]
        [0.2]
    """
    return [_difference(a, b) for a, b in _pairs(one, other) if a.is_floating_point()]


def _pairs(one: Any, other: Any) -> list[tuple[Tensor, Tensor]]:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return [pair for pair in pairs if isinstance(pair[0], Tensor)]


def _difference(one: Tensor, other: Tensor) -> float:
    a, b = one.detach().double(), other.detach().double()
    known = torch.isfinite(a)
    if not torch.equal(known, torch.isfinite(b)):
        return math.inf
    a, b = a[known], b[known]
    # what is 0 but for 1e-12 is 0
    apart, size = float((a - b).norm()), float(a.norm())
    return max(0.0, apart - 1e-12) / max(size, 1e-300)


def _moved(leaf: Any, away: float | None) -> Any:
    """A floating tensor whose numbers are larger and smaller in turn by a share, or by a few roundings."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    share = 4 * torch.finfo(leaf.dtype).eps if away is None else away
    turn = 1 - 2 * torch.arange(leaf.numel(), device=leaf.device).remainder(2).reshape(leaf.shape)
    moved = leaf.detach() * (1 + share * turn.to(leaf.dtype))
    return moved.requires_grad_(leaf.requires_grad)
