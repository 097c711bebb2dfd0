"""Drawing rows without replacement from many ranges at once; the time taken does not grow with the ranges."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def distinct(sizes: Indices, counts: Indices, generator: torch.Generator) -> Indices:
    """Different numbers below each of `sizes`, in random order: every ordered draw is equally likely.

    Arguments:
        sizes: `(T,)` lengths of the ranges.
        counts: `(T,)` numbers wanted from each, at most its length.
        generator: of the draw.

    Returns:
        `(T, max(counts))`; what follows the first `counts[t]` numbers of a row has no meaning, but is in
        range where the range is not empty.

    Example:
        >>> found = distinct(np.array([3, 10**9]), np.array([3, 2]), torch.Generator())
        >>> found.shape, sorted(found[0].tolist())
        ((2, 3), [0, 1, 2])
    """
    width = int(counts.max(initial=0))
    out = np.zeros((len(sizes), width), dtype=np.int64)
    # shuffling a range takes its length, rejecting repeats takes what is drawn: the cheaper of the two
    short = sizes <= 4 * width
    for rows, draw in ((short, _shuffled), (~short, _first_distinct)):
        if width and rows.any():
            found = draw(sizes[rows], width, generator)
            out[rows, : found.shape[1]] = found
    return out


def _shuffled(sizes: Indices, width: int, generator: torch.Generator) -> Indices:
    longest = int(sizes.max())
    keys = torch.rand(len(sizes), longest, generator=generator, dtype=torch.float64).numpy()
    keys[np.arange(longest) >= sizes[:, None]] = np.inf
    order = np.argsort(keys, axis=1)[:, :width]
    return np.minimum(order, np.maximum(sizes - 1, 0)[:, None])


def _first_distinct(sizes: Indices, width: int, generator: torch.Generator) -> Indices:
    """The first `width` different values of an endless draw with replacement, whose order is uniform."""
    drawn = np.empty((len(sizes), 0), dtype=np.int64)
    while True:
        uniform = torch.rand(len(sizes), width + width // 2 + 4, generator=generator, dtype=torch.float64)
        drawn = np.concatenate([drawn, (uniform.numpy() * sizes[:, None]).astype(np.int64)], axis=1)
        order = np.argsort(drawn, axis=1, kind="stable")
        ranked = np.take_along_axis(drawn, order, 1)
        again = np.zeros(drawn.shape, dtype=bool)
        np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
        if (drawn.shape[1] - again.sum(1)).min() >= width:
            kept = np.argsort(again, axis=1, kind="stable")[:, :width]
            return np.take_along_axis(drawn, kept, 1)


def outside(ranks: Indices, taken: Indices, counts: Indices) -> Indices:
    """The numbers that stand at `ranks` among those not taken.

    Arguments:
        ranks: `(T, Q)` positions among what is left.
        taken: `(T, S)` numbers that are taken, all different, in any order.
        counts: `(T,)` how many of each row of `taken` count.

    Returns:
        `(T, Q)`.

    Example:
        >>> outside(np.array([[0, 1, 2]]), np.array([[3, 0]]), np.array([2])).tolist()
        [[1, 2, 4]]
    """
    width = taken.shape[1]
    if not width:
        return ranks
    last = np.iinfo(np.int64).max // 2
    ordered = np.sort(np.where(np.arange(width) < counts[:, None], taken, last), axis=1)
    # how many numbers are left below each one that is taken; the rank skips those at or below its own
    below = ordered - np.arange(width)
    # rows lie far apart on one line, so that one search serves them all
    gap = int(ranks.max(initial=0)) + 2
    base = np.arange(len(ranks))[:, None] * gap
    line = (np.minimum(below, gap - 1) + base).ravel()
    skipped: Indices = (
        np.searchsorted(line, ranks + base, side="right") - np.arange(len(ranks))[:, None] * width
    )
    return ranks + skipped


def ragged(first: Indices, counts: Indices) -> Indices:
    """The numbers `first[t] .. first[t] + counts[t] - 1` of every range, one range after the other.

    Example:
        >>> ragged(np.array([5, 20]), np.array([2, 3])).tolist()
        [5, 6, 20, 21, 22]
    """
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - ends + counts, counts)


def pack(values: Indices, counts: Indices) -> Indices:
    """Ranges that follow each other as rows of `(T, max(counts))`, filled up with 0.

    Example:
        >>> pack(np.array([7, 8, 9]), np.array([1, 2])).tolist()
        [[7, 0], [8, 9]]
    """
    out: Indices = np.zeros((len(counts), int(counts.max(initial=0))), dtype=np.int64)
    out[np.arange(out.shape[1]) < counts[:, None]] = values
    return out
