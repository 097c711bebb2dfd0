"""Folds for cross-fitting: in every round other rows move the candidates, and others give the held-out gradient.

Each of the `J` draws of a round is an episode: its support rows move a candidate, its query rows, which that
candidate has not seen, give the held-out gradient. So the draws of a round are a stack of `J` episodes, padded
with rows of weight 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UsageError
from ..tasks.episodes import Batch, Episode, map_tensors, stack
from ..tasks.sampling import Indices

__all__ = [
    "bootstrapped",
    "combination",
    "fold_numbers",
    "partitioned",
    "reversed_partition",
    "split_off",
    "take",
]


def take(rows: Batch, index: Tensor | Indices) -> Batch:
    """Some rows of an unstacked batch, by number or by a mask.

    Example:
        >>> take(Batch(torch.arange(3.0)[:, None], torch.arange(3)), torch.tensor([2, 0])).y.tolist()
        [2, 0]
    """
    chosen: Batch = map_tensors(lambda t: t[torch.as_tensor(index).to(t.device)], rows)
    return chosen


def fold_numbers(y: Tensor, n_folds: int, generator: torch.Generator) -> Tensor:
    """A random fold for each row, folds and the classes in them of equal size as far as that goes.

    Arguments:
        y: `(N,)` class numbers, or targets `(N, C)`.
        n_folds: folds `J`; with one of them for each row this is leave-one-out.
        generator: of the draw.

    Returns:
        `(N,)`, each fold from 0 to `J - 1` at least once.

    Raises:
        DataError: there are fewer rows than folds.

    Example:
        >>> folds = fold_numbers(torch.tensor([0, 0, 1, 1]), 2, torch.Generator().manual_seed(0))
        >>> sorted(folds[:2].tolist()), sorted(folds[2:].tolist())
        ([0, 1], [0, 1])
    """
    count = len(y)
    if count < n_folds or n_folds < 2:
        raise DataError(
            f"{count} row(s) cannot form {n_folds} folds: held-out gradients need 2 rows at least; add rows, or "
            "lower folds"
        )
    order = torch.randperm(count, generator=generator)
    if y.dim() == 1 and not y.is_floating_point():
        order = order[torch.argsort(y.cpu()[order], stable=True)]
    # the names of the folds are drawn too, so that none of them is always the larger one
    names = torch.randperm(n_folds, generator=generator)
    folds = torch.empty_like(order)
    folds[order] = names[torch.arange(count, device="cpu") % n_folds]
    return folds


def partitioned(rows: Batch, n_folds: int, generator: torch.Generator) -> Episode:
    """`J` episodes: all folds but one move a candidate, that one gives its gradient.

    Example:
        >>> rows = Batch(torch.zeros(6, 1), torch.zeros(6, 1))
        >>> folds = partitioned(rows, 3, torch.Generator())
        >>> folds.support.y.shape, folds.query.y.shape
        (torch.Size([3, 4, 1]), torch.Size([3, 2, 1]))
    """
    folds = fold_numbers(rows.y, n_folds, generator)
    return stack([Episode(take(rows, folds != j), take(rows, folds == j)) for j in range(n_folds)])


def reversed_partition(rows: Batch, n_folds: int, generator: torch.Generator) -> Episode:
    """`J` episodes: one fold moves a candidate, all others give its gradient (a small part, and the rest)."""
    support, query = partitioned(rows, n_folds, generator)
    return Episode(query, support)


def bootstrapped(rows: Batch, n_folds: int, generator: torch.Generator) -> Episode:
    """`J` episodes: a bootstrap sample moves a candidate, the rows that it left out give its gradient.

    Efron, 1979, *Bootstrap Methods: Another Look at the Jackknife*. A sample that leaves no row out is drawn
    again.
    """
    count = len(rows.y)
    if count < 2:
        raise DataError(
            "1 row cannot be drawn and left out: held-out gradients need 2 rows at least; add rows"
        )
    episodes: list[Episode] = []
    while len(episodes) < n_folds:
        drawn = torch.randint(count, (count,), generator=generator)
        left = np.setdiff1d(np.arange(count), drawn.numpy())
        if len(left):
            episodes.append(Episode(take(rows, drawn), take(rows, left)))
    return stack(episodes)


COMBINATIONS: dict[str, Callable[[Batch, int, torch.Generator], Episode]] = {
    "most": partitioned,
    "few": reversed_partition,
    "bootstrap": bootstrapped,
}


def combination(name: str) -> Callable[[Batch, int, torch.Generator], Episode]:
    """One of `COMBINATIONS` by name.

    Raises:
        UsageError: the name is unknown.

    Example:
        >>> combination("few").__name__
        'reversed_partition'
    """
    if name not in COMBINATIONS:
        raise UsageError(f"moves={name!r} is unknown: choose one of {', '.join(COMBINATIONS)}")
    return COMBINATIONS[name]


def split_off(rows: Batch, share: float, generator: torch.Generator) -> tuple[Batch, Batch]:
    """Two parts of the rows, the second with a share of every class: the third split, which only stops.

    A part has one row at least; a class with one row stays in the first.

    Raises:
        DataError: there are fewer than 3 rows.

    Example:
        >>> first, second = split_off(Batch(torch.zeros(10, 1), torch.zeros(10, 1)), 0.2, torch.Generator())
        >>> len(first.y), len(second.y)
        (8, 2)
    """
    count = len(rows.y)
    if count < 3:
        raise DataError(f"{count} row(s) leave none for stopping: give stop='none', or more rows")
    away = torch.zeros(count, dtype=torch.bool, device="cpu")
    classes = rows.y.dim() == 1 and not rows.y.is_floating_point()
    labels = rows.y.cpu() if classes else torch.zeros(count, dtype=torch.int64, device="cpu")
    for label in sorted(set(labels.tolist())):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        away[members[: min(round(share * len(members)), len(members) - 1)]] = True
    if not away.any():
        away[torch.randint(count, (1,), generator=generator)] = True
    return take(rows, ~away), take(rows, away)
