"""Whether two ways to compute the same function agree within rounding: the check that every graph has to pass.

`agree` compares once, as sharply as single operators are rounded. Where errors add up, or a result is rounding alone (a
gradient that is 0 but for that), `agree_nearby` asks function and graph how much of a result is rounding, and allows
that much. Only where they agree so closely a little way off may they differ by more here: a number lies beside a kink
(ReLU, max-pooling) and fell on the other side of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .modes import frugal, while_checking

__all__ = ["agree", "agree_nearby", "differences"]

# the power of the eps of its type by which an element may be off, relative to its size and that of the tensor: 6e-6 in
# single precision; and how much more where nothing among the arguments is floating, so that nobody can be asked what
# rounding makes
_POWER, _UNASKED = 0.75, 16
# how many times the change that rounded arguments make in a result may be added to that
_CHANGES = 8
# up to which difference in norm a kink may be the reason, and how far away, relatively, results are then compared
# again: a number falls on the other side of it at some points, two different functions differ at all
_KINK, _ELSEWHERE = 0.3, (1e-4, 1e-3, 2e-3)

T = TypeVar("T")


def agree(one: object, other: object, rounding: Sequence[float] | None = None, *, times: float = 1.0) -> bool:
    """Whether two pytrees of tensors hold the same numbers up to rounding, compared element by element.

    Arguments:
        one: a pytree.
        other: a pytree of the same structure.
        rounding: how much of each floating tensor is rounding, see `differences`; nothing unless given.
        times: how many times the tolerance of single operators an element may be off beside that.

    Returns:
        Whether shapes, types, whole numbers and truth values are equal, NaN and infinities are in the same elements
        with the same sign, and floating elements within the tolerance.

    Example:
        >>> agree([torch.ones(3)], [torch.ones(3) + 1e-6]), agree([torch.ones(3)], [torch.ones(3) + 1e-4])
        (True, False)
        >>> agree([torch.tensor(float("inf"))], [torch.tensor(-float("inf"))])
        False
    """
    if not _exact(one, other):
        return False
    shares = differences(one, other)
    limits = [
        times * torch.finfo(a.dtype).eps ** _POWER + _CHANGES * share
        for (a, _), share in zip(_floats(one, other), rounding or [0.0] * len(shares), strict=True)
    ]
    return all(share <= limit for share, limit in zip(shares, limits, strict=True))


class _Point(NamedTuple):
    """Function and graph at some arguments, and how much of each floating tensor is rounding there."""

    plain: object
    graph: object
    rounding: list[float]


def agree_nearby(
    plain: Callable[[list[object]], T],
    graph: Callable[[list[object]], T],
    *,
    leaves: list[object],
    results: tuple[T, T],
) -> bool:
    """Whether function and graph differ no more than rounding explains, at these arguments or a little way off.

    The gradient of a bias before BatchNorm, for instance, is 0, and all that is computed of it is rounding. How much of
    a result is, tell both themselves when their arguments are rounded otherwise: rounding changes with these, and an
    error of the graph does not. Where that does not explain a difference, the function in double precision tells how
    far from the truth it is itself: errors of one sign (long sums) hardly change with the arguments.

    Arguments:
        plain: the function, of flat arguments.
        graph: the graph, of the same.
        leaves: the arguments at which they differ.
        results: of both, there.
    """

    def value(leaves: list[object]) -> T:
        with while_checking(), frugal():
            return plain(leaves)

    def of_graph(leaves: list[object], results: tuple[T, T]) -> _Point:
        """What the graph alone says of rounding: it is fast, and where that is enough the function need not run."""
        with while_checking():
            return _Point(*results, _finite_shares(_changes(*results, graph([*map(_perturbed, leaves)]))))

    def of_both(leaves: list[object], point: _Point) -> _Point:
        changes = _finite_shares(differences(point.plain, value([*map(_perturbed, leaves)])))
        return point._replace(rounding=[*map(max, point.rounding, changes)])

    if not _exact(*results):
        return False
    if not any(map(_is_floating, leaves)):
        return agree(*results, times=_UNASKED)
    try:
        if agree(*(here := of_graph(leaves, results))):
            return True
        if agree(*(here := of_both(leaves, here))):
            return True
        here = here._replace(rounding=[*map(max, here.rounding, _inexact(value, leaves, results[0]))])
        if agree(*here):
            return True
        if not _within_a_kink(here):
            return False
        least = here.rounding
        for distance in _ELSEWHERE:
            away = [_perturbed(leaf, distance) for leaf in leaves]
            with while_checking():
                there = of_graph(away, (value(away), graph(away)))
            if agree(there.plain, there.graph, [*map(min, least, there.rounding)]):
                return True
            least = [*map(min, least, of_both(away, there).rounding)]
            if agree(there.plain, there.graph, least):
                return True
    except Exception:  # nobody said that the function is defined there
        return False
    return False


def differences(one: object, other: object) -> list[float]:
    r"""How far the floating tensors of two pytrees are apart: $\max_i |a_i - b_i| / (|a_i| + \mathrm{rms}(a))$.

    Example:
        >>> a, b = torch.tensor([3.0, 3.0]), torch.tensor([3.0, 3.6])
        >>> [round(share, 6) for share in differences([a], [b])]
        [0.1]
    """
    return [_difference(a, b) for a, b in _floats(one, other)]


def _finite_shares(shares: Sequence[float]) -> list[float]:
    """Shares of rounding, 0 where a result is infinite or NaN for other roundings: that tells nothing."""
    return [share if math.isfinite(share) else 0.0 for share in shares]


def _changes(plain: object, graph: object, rounded: object) -> list[float]:
    """How far a graph is from itself for rounded arguments, relative to the size of the plain function's result."""
    triples = zip(_floats(plain, graph), _floats(graph, rounded), strict=True)
    return [_difference(b, c, size=a) for (a, b), (_, c) in triples]


def _inexact(value: Callable[[list[object]], T], leaves: list[object], plain: T) -> list[float]:
    """Half of how far floating results are from those in double precision; 0 where the function does not run in it."""
    exact = [_double(leaf) for leaf in leaves]
    try:
        shares = differences(plain, value(exact))
    except Exception:  # weights that it closes over, for instance, have their own type
        return [0.0 for _ in _floats(plain, plain)]
    return [share / 2 for share in _finite_shares(shares)]


def _double(leaf: object) -> object:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    return leaf.detach().double().requires_grad_(leaf.requires_grad)


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _exact(one: object, other: object) -> bool:
    """Whether structures, shapes and types are equal, and so are all numbers that are not floating, to the bit."""
    if pytree.tree_structure(one) != pytree.tree_structure(other):
        return False
    for a, b in _pairs(one, other):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not (a.is_floating_point() or a.is_complex() or torch.equal(_bytes(a), _bytes(b))):
            return False
    return True


def _bytes(tensor: Tensor) -> Tensor:
    """Truth values as the numbers in memory: 2 is true as well, and is no truth value."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


def _within_a_kink(here: _Point) -> bool:
    """Whether the difference in norm is as small as one that a kink may make, beside what is rounding."""
    pairs = zip(_floats(here.plain, here.graph), here.rounding, strict=True)
    return all(_in_norm(a, b) <= _KINK + _CHANGES * share for (a, b), share in pairs)


def _in_norm(one: Tensor, other: Tensor) -> float:
    """The norm of the difference by that of the first; infinite where NaN and infinities differ."""
    if (pair := _finite(one, other)) is None:
        return math.inf
    a, b = pair
    return float((a - b).norm()) / max(float(a.norm()), 1e-300)


def _pairs(one: object, other: object) -> list[tuple[Tensor, Tensor]]:
    """The tensors of two pytrees, two by two."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return [(a.detach(), b.detach()) for a, b in pairs if isinstance(a, Tensor)]


def _floats(one: object, other: object) -> Iterator[tuple[Tensor, Tensor]]:
    """The floating tensors among them; complex ones as pairs of numbers."""
    for a, b in _pairs(one, other):
        if a.is_complex():
            yield torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
        elif a.is_floating_point():
            yield a, b


def _finite(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor] | None:
    """Both in double precision, with 0 where they are not finite; `None` where NaN or infinities are not the same."""
    a, b = one.double(), other.double()
    finite = torch.isfinite(a)
    if not torch.equal(a[~finite].nan_to_num(0.0), b[~finite].nan_to_num(0.0)):
        return None  # an infinity becomes the largest number of its sign
    if not torch.equal(finite, torch.isfinite(b)):
        return None
    return _numbers(a), _numbers(b)


def _numbers(tensor: Tensor) -> Tensor:
    return tensor.double().nan_to_num(0.0, 0.0, 0.0)


def _difference(one: Tensor, other: Tensor, *, size: Tensor | None = None) -> float:
    """See `differences`; relative to the elements of another tensor than the first if that is given."""
    if (pair := _finite(one, other)) is None:
        return math.inf
    apart = (pair[0] - pair[1]).abs()
    if not apart.numel():
        return 0.0
    size = pair[0] if size is None else _numbers(size)
    scale = size.abs() + size.square().mean().sqrt()
    # C flushes what is smaller than the smallest normal number to 0
    return float(((apart - 4 * torch.finfo(one.dtype).tiny).clamp(min=0) / scale.clamp(min=1e-300)).max())


def _perturbed(leaf: object, distance: float | None = None) -> object:
    """A floating tensor whose numbers are larger and smaller in turn, by a relative distance or by a few roundings."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    share = 4 * torch.finfo(leaf.dtype).eps if distance is None else distance
    sign = 1 - 2 * torch.arange(leaf.numel(), device=leaf.device).remainder(2).reshape(leaf.shape)
    perturbed = leaf.detach() * (1 + share * sign.to(leaf.dtype))
    return perturbed.requires_grad_(leaf.requires_grad)
