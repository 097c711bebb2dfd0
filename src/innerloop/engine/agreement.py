"""Whether two ways to compute the same function agree within rounding: the check that every graph has to pass.

`agree` compares once. Where results are ill-conditioned (a gradient that is 0 but for rounding) or lie beside a kink
(ReLU, max-pooling), `agree_nearby` asks the function itself how much of a result is rounding, and compares a little
way off as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .modes import frugal, while_checking

__all__ = ["agree", "agree_nearby", "differences"]

# relative difference in norm up to which results agree. Two ways to round agree far better, but for a number on the
# other side of a kink (ReLU, max-pooling), which moves a gradient of few tasks by a percent; two different functions
# do not
_TOLERANCE = 5e-2
# how many times the change that rounded arguments make in a result may be added to the tolerance
_ROUNDINGS = 32
# up to which difference a kink may be the reason, and how far away, relatively, results are then compared again: a
# number falls on the other side of it at some points, two different functions differ at all
_KINK, _ELSEWHERE = 0.3, (1e-3, 2e-3)

T = TypeVar("T")


def agree(
    one: object, other: object, rounding: Sequence[float] | None = None, *, tolerance: float = _TOLERANCE
) -> bool:
    """Whether two pytrees of tensors hold the same numbers up to rounding, compared tensor by tensor in norm.

    Arguments:
        one: a pytree.
        other: a pytree of the same structure.
        rounding: how much of each floating tensor is rounding, see `differences`; nothing unless given.
        tolerance: how far a tensor may be off beside that, relative to its norm.

    Returns:
        Whether shapes, types and whole numbers are equal, and floating tensors within the tolerance.

    Example:
        >>> agree([torch.ones(3)], [torch.ones(3) + 1e-6]), agree([torch.ones(3)], [torch.zeros(3)])
        (True, False)
    """
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in _pairs(one, other)):
        return False
    if any(not torch.equal(a, b) for a, b in _pairs(one, other) if not a.is_floating_point()):
        return False
    shares = differences(one, other)
    limits = [tolerance + _ROUNDINGS * share for share in rounding or [0.0] * len(shares)]
    return all(share <= limit for share, limit in zip(shares, limits, strict=True))


def agree_nearby(
    plain: Callable[[list[object]], T],
    graph: Callable[[list[object]], T],
    *,
    leaves: list[object],
    results: tuple[T, T],
) -> bool:
    """Whether function and graph differ no more than rounding explains, at these arguments or a little way off.

    The gradient of a bias before BatchNorm, for instance, is 0, and all that is computed of it is rounding: how much
    of a result is, tells the function itself when its arguments are rounded otherwise.

    Arguments:
        plain: the function, of flat arguments.
        graph: the graph, of the same.
        leaves: the arguments at which they differ.
        results: of both, there.
    """

    def value(leaves: list[object]) -> T:
        with while_checking(), frugal():
            return plain(leaves)

    rounding = differences(results[0], value([_perturbed(leaf) for leaf in leaves]))
    if agree(*results, rounding):
        return True
    if not agree(*results, rounding, tolerance=_KINK):
        return False
    for distance in _ELSEWHERE:
        there = [_perturbed(leaf, distance) for leaf in leaves]
        try:
            with while_checking():
                results = value(there), graph(there)
            shares = differences(results[0], value([_perturbed(leaf) for leaf in there]))
        except Exception:  # nobody said that the function is defined there
            return False
        rounding = [min(pair) for pair in zip(rounding, shares, strict=True)]
        if agree(*results, rounding):
            return True
    return False


def differences(one: object, other: object) -> list[float]:
    """How far the floating tensors of two pytrees are apart, each relative to its norm.

    Example:
        >>> [round(share, 6) for share in differences([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])])]
        [0.2]
    """
    return [_difference(a, b) for a, b in _pairs(one, other) if a.is_floating_point()]


def _pairs(one: object, other: object) -> list[tuple[Tensor, Tensor]]:
    """The tensors of two pytrees, two by two."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return [pair for pair in pairs if isinstance(pair[0], Tensor)]


def _difference(one: Tensor, other: Tensor) -> float:
    """The norm of the difference by that of the first; infinite where NaN and infinity are not at the same indices."""
    a, b = one.detach().double(), other.detach().double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return math.inf
    a, b = a[finite], b[finite]
    # what is 0 but for 1e-12 is 0
    apart, size = float((a - b).norm()), float(a.norm())
    return max(0.0, apart - 1e-12) / max(size, 1e-300)


def _perturbed(leaf: object, distance: float | None = None) -> object:
    """A floating tensor whose numbers are larger and smaller in turn, by a relative distance or by a few roundings."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    share = 4 * torch.finfo(leaf.dtype).eps if distance is None else distance
    sign = 1 - 2 * torch.arange(leaf.numel(), device=leaf.device).remainder(2).reshape(leaf.shape)
    perturbed = leaf.detach() * (1 + share * sign.to(leaf.dtype))
    return perturbed.requires_grad_(leaf.requires_grad)
