"""Sampling without replacement from many ranges at once; the time taken does not grow with the ranges."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Indices", "Streams", "outside", "pack", "ragged", "without_replacement"]

Indices = NDArray[np.int64]


class Streams:
    """Generators that are drawn from together: each gives the numbers that it would give alone.

    Arguments:
        generators: of as many draws.
        owner: `(N,)` the generator of each row, ascending; one row each unless given.

    Example:
        >>> both = Streams([torch.Generator().manual_seed(seed) for seed in (1, 2)]).repeated(3)
        >>> alone = torch.rand(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        >>> bool((both.uniform(2)[3:] == alone.numpy()).all())
        True
    """

    def __init__(self, generators: Sequence[torch.Generator], owner: Indices | None = None) -> None:
        """See the class."""
        self.generators = generators
        self.owner = np.arange(len(generators)) if owner is None else owner
        if len(generators) == 1:
            self.parts = [slice(0, len(self.owner))]
        else:
            ends = np.searchsorted(self.owner, np.arange(len(generators) + 1)).tolist()
            self.parts = [slice(*pair) for pair in itertools.pairwise(ends)]

    def repeated(self, counts: Indices | int) -> Streams:
        """So many rows in place of each."""
        return Streams(self.generators, np.repeat(self.owner, counts))

    def of(self, rows: np.ndarray) -> Streams:
        """Those of some rows, a mask or numbers in ascending order."""
        return Streams(self.generators, self.owner[rows])

    def reduced(self, function: np.ufunc, values: Indices) -> Indices:
        """Such as the largest value (`np.maximum`) of each generator's rows, 0 where it has none."""
        out = np.zeros(len(self.parts), dtype=np.int64)
        some = [number for number, part in enumerate(self.parts) if part.stop > part.start]
        if some:
            out[some] = function.reduceat(values, [self.parts[number].start for number in some])
        return out

    def uniform(self, width: Indices | int) -> NDArray[np.float64]:
        """`(N, width)` numbers from 0 to 1; where widths `(G,)` differ, infinity fills the rows up."""
        widths = [width] * len(self.parts) if isinstance(width, int) else width.tolist()
        out = np.full((len(self.owner), max(widths)), np.inf)
        for generator, part, own in zip(self.generators, self.parts, widths, strict=True):
            if part.stop > part.start and own:
                drawn = torch.rand(part.stop - part.start, own, generator=generator, dtype=torch.float64)
                out[part, :own] = drawn.numpy()
        return out

    def integers(self, low: int, high: int) -> Indices:
        """`(N,)` whole numbers from `low` to `high`, both included."""
        out = np.empty(len(self.owner), dtype=np.int64)
        for generator, part in zip(self.generators, self.parts, strict=True):
            drawn = torch.randint(low, high + 1, (part.stop - part.start,), generator=generator)
            out[part] = drawn.numpy()
        return out


def without_replacement(sizes: Indices, counts: Indices, streams: Streams | torch.Generator) -> Indices:
    """Sample without replacement below each of `sizes` `(T,)`: every ordered draw of `counts` `(T,)` is equally likely.

    Returns:
        `(T, max(counts))`; what follows the first `counts[t]` numbers of a row has no meaning, but is in
        range where the range is not empty.

    Example:
        >>> drawn = without_replacement(np.array([3, 10**9]), np.array([3, 2]), torch.Generator())
        >>> drawn.shape, sorted(drawn[0].tolist())
        ((2, 3), [0, 1, 2])
    """
    if isinstance(streams, torch.Generator):
        streams = Streams([streams]).repeated(len(sizes))
    widths = streams.reduced(np.maximum, counts)
    out = np.zeros((len(sizes), int(widths.max(initial=0))), dtype=np.int64)
    own = widths[streams.owner]
    # shuffling a range takes its length, rejecting repeats takes what is drawn: the cheaper of the two
    short = sizes <= 4 * own
    for width in sorted(set(widths.tolist()) - {0}):
        for which, draw in ((short, _shuffled), (~short, _first_distinct)):
            rows = which & (own == width)
            if rows.any():
                some = streams if rows.all() else streams.of(rows)
                drawn = draw(sizes[rows], width, some)
                out[rows, : drawn.shape[1]] = drawn
    return out


def _shuffled(sizes: Indices, width: int, streams: Streams) -> Indices:
    """The first `width` numbers of each range in a random order."""
    keys = streams.uniform(streams.reduced(np.maximum, sizes))
    keys[np.arange(keys.shape[1]) >= sizes[:, None]] = np.inf
    order = np.argsort(keys, axis=1)[:, :width]
    return np.minimum(order, np.maximum(sizes - 1, 0)[:, None])


def _first_distinct(sizes: Indices, width: int, streams: Streams) -> Indices:
    """The first `width` different values of an endless draw with replacement, whose order is uniform."""
    out = np.empty((len(sizes), width), dtype=np.int64)
    left, drawn = np.arange(len(sizes)), np.empty((len(sizes), 0), dtype=np.int64)
    while len(left):
        own = streams if len(left) == len(sizes) else streams.of(left)
        more = own.uniform(width + width // 2 + 4)
        drawn = np.concatenate([drawn, (more * sizes[left, None]).astype(np.int64)], axis=1)
        order = np.argsort(drawn, axis=1, kind="stable")
        ranked = np.take_along_axis(drawn, order, 1)
        again = np.zeros(drawn.shape, dtype=bool)
        np.put_along_axis(again, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
        # a generator draws for all its rows once more where one of them has too few
        few = drawn.shape[1] - again.sum(1) < width
        done = ~np.isin(own.owner, own.owner[few]) if few.any() else ~few
        first = np.argsort(again[done], axis=1, kind="stable")[:, :width]
        out[left[done]] = np.take_along_axis(drawn[done], first, 1)
        left, drawn = left[~done], drawn[~done]
    return out


def outside(ranks: Indices, taken: Indices, counts: Indices) -> Indices:
    """The numbers `(T, Q)` that stand at `ranks` among those that the first `counts` of `taken` `(T, S)` leave.

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
