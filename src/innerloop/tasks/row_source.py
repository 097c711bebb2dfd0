"""Rows of a table, grouped by task, as a source of episodes. Drawing is vectorised."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .episodes import Batch, Episode, Width
from .sampling import Indices, Streams, outside, pack, ragged, without_replacement
from .support import SupportSize, Targets, stream

__all__ = ["ROWS_AT_ONCE", "RowSource", "renumbered"]

# rows, padding included, that one stack of evaluation episodes may hold
ROWS_AT_ONCE = 65_536
# numbers among the features of several draws that are one stack
_TOGETHER = 2**18

# rows, padding included, that a direct fit of all tasks may hold
_WHOLE = 2**24


class _Cells(NamedTuple):
    """Rows sorted by class within a task (or a block of it).

    Arguments:
        rows: `(N,)` row numbers in that order.
        starts: first index of each class of each task, and `N`.
        first: first cell of each task, and the number of cells.
    """

    rows: Indices
    starts: Indices
    first: Indices


class _Drawn(NamedTuple):
    """Support rows of each task, as positions within it: `inside` `(T, most)`, of them the first `counts`.

    The other positions are for the query: all but `hole` ones from `begin` on, or all but `inside` where the
    support rows lie scattered (`begin` is `None`).
    """

    inside: Indices
    counts: Indices
    begin: Indices | None
    hole: Indices


@dataclass(frozen=True, eq=False)
class RowSource:
    """Rows of a table, grouped by task.

    Arguments:
        x: `(N, *feature)`, sorted by task; within a task in order, or by block, where `support` asks for it.
        y: `(N, C)` floating targets or `(N,)` class numbers.
        starts: first row of each task, and `N`.
        ids: name of each task.
        support: how many rows form a support set, and which ones.
        targets: what `y` means.
        n_query: largest number of query rows of a training episode; evaluation uses all.
        draws: support sets drawn for each task in evaluation.
        blocks: first row of each block, and `N`, where support comes from one block.
        own_classes: each task has classes of its own, so training gives them other numbers at each visit.
        standardised: `x`, and `y` of regression, are in standard deviations from the mean of meta-train.
        trained_classes: of the classes of these tasks, the names that meta-train tasks have too, and how many there
            are in all; where tasks have classes of their own.

    Raises:
        DataError: a task has fewer than two rows, or fewer than two blocks.

    Example:
        >>> x, y = torch.arange(10.0)[:, None], torch.zeros(10, 1)
        >>> size, targets = SupportSize(2, 2), Targets("regression", 1)
        >>> source = RowSource(x, y, np.array([0, 6, 10]), ("a", "b"), size, targets)
        >>> source.sample(2, stream(0)).support.x.shape
        torch.Size([2, 2, 1])
    """

    x: Tensor
    y: Tensor
    starts: Indices
    ids: tuple[str, ...]
    support: SupportSize
    targets: Targets
    n_query: int = 32
    draws: int = 10
    blocks: Indices | None = None
    own_classes: bool = False
    trained_classes: tuple[int, int] | None = None
    standardised: bool = False

    def __post_init__(self) -> None:
        """Every task must give a support and a query row."""
        by_block = self.support.choice.how == "block"
        what = "block" if by_block else "row"
        if by_block and self.blocks is None:
            raise DataError(f"support={str(self.support.choice)!r} needs to know where each block starts")
        counts = np.diff(self._first_block) if by_block else np.diff(self.starts)
        if len(counts) and counts.min() < 2:
            task = int(counts.argmin())
            raise DataError(
                f"task {self.ids[task]!r} has {counts[task]} {what}: support and query need 2 or more"
            )
        if self.support.per_class:
            _ = self._cells  # sorted now, so that the first draw is as quick as the others

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`; distinct tasks as long as there are enough."""
        return next(self.samples(count, [generator]))

    @property
    def most_rows(self) -> int:
        """Rows of a training episode, padding included, at most."""
        longest = int(np.diff(self.starts).max(initial=0))
        support = self.support.high * (self.targets.n_outputs if self.support.per_class else 1)
        return min(support, longest) + min(self.n_query, longest)

    @property
    def widths(self) -> tuple[Width | None, Width | None]:
        """Support and query rows of training episodes; `None` where rows are drawn by class or block."""
        if self.support.per_class or self.support.choice.how == "block" or not self.n_tasks:
            return None, None
        rows = np.diff(self.starts)
        shortest, longest = int(rows.min()), int(rows.max())
        support = Width(min(self.support.low, shortest - 1), min(self.support.high, longest - 1))
        # the fewest are left where the largest support set is taken from a short task
        least = min(shortest - min(self.support.high, shortest - 1), self.n_query)
        return support, Width(least, min(longest - min(self.support.low, longest - 1), self.n_query))

    def samples(
        self, count: int, generators: Sequence[torch.Generator], own: Tensor | None = None
    ) -> Iterator[Episode]:
        """What `sample` gives for each generator, drawn together, which takes far less time for each.

        Neighbours of equal shapes come as one stack of tasks.

        Arguments:
            count: tasks of each generator.
            generators: of what is drawn.
            own: positions among these tasks, ascending, whose rows are read; the others are only drawn, and widths are
                those of all. All unless given.
        """
        streams, left = Streams(generators), iter(generators)
        chosen = self._chosen(count, streams)
        own = torch.arange(count) if own is None else own
        for episode in self._episodes(
            chosen, streams.repeated(count), self.n_query, _read(own, count, generators)
        ):
            if self.own_classes:
                some = itertools.islice(left, episode.n_tasks // len(own))
                order = [torch.rand(count, self.targets.n_outputs, generator=one).argsort(1) for one in some]
                yield renumbered(episode, torch.cat([one[own] for one in order]))
            else:
                yield episode

    def drawn(self, count: int, generator: torch.Generator) -> list[str]:
        """The names of the tasks that `sample` draws with the same generator."""
        return [self.ids[task] for task in self._chosen(count, Streams([generator]))]

    def _chosen(self, count: int, streams: Streams) -> Indices:
        """`count` tasks for each generator, different ones as long as there are enough."""
        if count > self.n_tasks:
            return streams.repeated(count).integers(0, self.n_tasks - 1)
        every, wanted = (np.full(len(streams.owner), number) for number in (self.n_tasks, count))
        return without_replacement(every, wanted, streams).ravel()

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: `draws` supports of each task, all its other rows are query."""
        rows = np.diff(self.starts)
        order = np.argsort(rows, kind="stable")
        # there is one way to take a number of first rows
        once = self.support.choice.how == "order" and self.support.low == self.support.high
        draws, stacks = range(1 if once else self.draws), list(_stacks(order, rows))
        most = int(rows.max(initial=1)) * max(1, len(order)) * max(1, self.x[:1].numel())
        # a stack takes about as long as a larger one, where both are small
        together = max(1, _TOGETHER // most) if len(stacks) == 1 else 1
        for first in range(0, len(draws), together):
            some = draws[first : first + together]
            for number, tasks in enumerate(stacks):
                streams = Streams([stream(seed, draw, number) for draw in some]).repeated(len(tasks))
                names = [self.ids[task] for task in tasks]
                yield names * len(some), next(self._episodes(np.tile(tasks, len(some)), streams, None))

    def whole(self) -> Batch:
        """All rows of every task, stacked and padded; of huge tasks a part, drawn once, in the same order."""
        counts = np.diff(self.starts)
        longest = max(64, _WHOLE // max(len(counts), 1))
        index = np.tile(np.arange(min(int(counts.max()), longest)), (len(counts), 1))
        long = counts > longest
        if long.any():
            part = np.full(int(long.sum()), longest)
            index[long] = np.sort(without_replacement(counts[long], part, stream(0)), axis=1)
        counts = np.minimum(counts, longest)
        width = int(counts.max(initial=0))
        padded = counts.min(initial=width) < width
        return _batch(*self._rows(self.starts[:-1, None] + index), counts, width=width, padded=bool(padded))

    def _episodes(
        self, tasks: Indices, streams: Streams, n_query: int | None, read: Indices | slice = slice(None)
    ) -> Iterator[Episode]:
        """An episode of the tasks of each generator, of those that are `read`; neighbours of equal shapes are one."""
        starts, rows = self.starts[tasks], self.starts[tasks + 1] - self.starts[tasks]
        size = streams.integers(self.support.low, self.support.high)
        drawn = self._draw_support(tasks, size, streams)
        left = rows - drawn.hole
        if n_query is None:
            count = left
            ranks = np.broadcast_to(np.arange(int(left.max())), (len(tasks), int(left.max())))
        else:
            count = np.minimum(left, n_query)
            ranks = without_replacement(left, count, streams)
        if drawn.begin is None:
            query = outside(ranks, drawn.inside, drawn.counts)
        else:
            query = ranks + np.where(ranks >= drawn.begin[:, None], drawn.hole[:, None], 0)
        sides = ((drawn.inside, drawn.counts), (query, count))
        batches = [
            (*self._rows(self._index((starts[:, None] + inside)[read])), counts[read])
            for inside, counts in sides
        ]
        # of the batches of each generator, how wide they are, and whether some tasks are filled up to that
        shapes = []
        for _, count in sides:
            most, least = (streams.reduced(end, count) for end in (np.maximum, np.minimum))
            if n_query is None:
                # draws for evaluation are one stack
                most, least = np.full_like(most, most.max()), np.full_like(least, least.min())
            shapes += [most, least < most]
        of_generator = zip(np.stack(shapes, axis=1).tolist(), streams.parts, strict=True)
        positions = np.arange(len(tasks))[read]
        for shape, run in itertools.groupby(of_generator, key=itemgetter(0)):
            own = [part for _, part in run]
            part = slice(*np.searchsorted(positions, [own[0].start, own[-1].stop]))
            widths = (shape[:2], shape[2:])
            yield Episode(
                *(
                    _batch(x[part], y[part], counts[part], width=width, padded=bool(padded))
                    for (x, y, counts), (width, padded) in zip(batches, widths, strict=True)
                )
            )

    def _draw_support(self, tasks: Indices, size: Indices, streams: Streams) -> _Drawn:
        starts, rows = self.starts[tasks], self.starts[tasks + 1] - self.starts[tasks]
        how = self.support.choice.how
        if how == "order":
            counts = np.minimum(size, rows - 1)
            first = np.broadcast_to(np.arange(int(counts.max())), (len(tasks), int(counts.max())))
            return _Drawn(first, counts, np.zeros_like(counts), counts)
        if how == "block":
            assert self.blocks is not None
            first, stop = self._first_block[tasks], self._first_block[tasks + 1]
            share = streams.uniform(1)[:, 0]
            block = first + (share * (stop - first)).astype(np.int64)
            begin, length = self.blocks[block] - starts, self.blocks[block + 1] - self.blocks[block]
            if self.support.per_class:
                inside, counts = self._by_class(block, size, None, streams)
                return _Drawn(inside - starts[:, None], counts, begin, length)
            counts = np.minimum(size, length)
            return _Drawn(
                begin[:, None] + without_replacement(length, counts, streams), counts, begin, length
            )
        if self.support.per_class:
            inside, counts = self._by_class(tasks, size, rows, streams)
            return _Drawn(inside - starts[:, None], counts, None, counts)
        counts = np.minimum(size, rows - 1)
        return _Drawn(without_replacement(rows, counts, streams), counts, None, counts)

    def _by_class(
        self, units: Indices, shots: Indices, rows: Indices | None, streams: Streams
    ) -> tuple[Indices, Indices]:
        """Positions, in the order of `_cells`, of `shots` rows of each class of a task or block, and how many.

        With `rows`, the rows of each task, the query comes from the same rows: then every class keeps a query
        row where it has two or more, and every task keeps one.
        """
        cells = self._cells
        first, n_cells = cells.first[units], cells.first[units + 1] - cells.first[units]
        cell = ragged(first, n_cells)
        size = cells.starts[cell + 1] - cells.starts[cell]
        most = size if rows is None else np.maximum(size - 1, 1)
        shot = np.minimum(np.repeat(shots, n_cells), most)
        task = np.repeat(np.arange(len(units)), n_cells)
        counts = np.bincount(task, shot, minlength=len(units)).astype(np.int64)
        full = np.zeros(0, dtype=np.int64) if rows is None else np.flatnonzero(counts >= rows)
        if len(full):
            # single rows of every class: one class, any of them, gives its row to the query
            share = streams.of(full).uniform(1)[:, 0]
            offset = np.cumsum(n_cells) - n_cells
            shot[offset[full] + (share * n_cells[full]).astype(np.int64)] = 0
            counts[full] -= 1
        drawn = cells.starts[cell][:, None] + without_replacement(size, shot, streams.repeated(n_cells))
        return pack(drawn[np.arange(drawn.shape[1]) < shot[:, None]], counts), counts

    @cached_property
    def _first_block(self) -> Indices:
        """First block of each task, and the number of blocks."""
        return np.searchsorted(np.asarray(self.blocks), self.starts)

    @cached_property
    def _cells(self) -> _Cells:
        units = self.starts if self.blocks is None else self.blocks
        # one key a row, for arrays as long as the table are what loading takes memory for
        largest = len(units) * self.targets.n_outputs
        first = np.arange(0, largest, self.targets.n_outputs, dtype=np.min_scalar_type(-largest))[:-1]
        key = np.repeat(first, np.diff(units))
        key += self.y.numpy().astype(key.dtype)
        rows = np.argsort(key, kind="stable").astype(np.min_scalar_type(-len(key)))
        key = key[rows]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(key)) + 1, [len(rows)]])
        return _Cells(rows, starts, np.searchsorted(starts, units))

    def _index(self, index: Indices) -> Indices:
        """Row numbers of positions; they differ where rows are counted by class."""
        index = np.clip(index, 0, len(self.y) - 1)
        return self._cells.rows[index].astype(np.int64) if self.support.per_class else index

    def _rows(self, index: Indices) -> tuple[Tensor, Tensor]:
        """Features and targets of some rows."""
        rows = torch.from_numpy(np.minimum(index, len(self.y) - 1)).flatten()
        # several times as fast as x[index]
        x, y = (
            values.index_select(0, rows).reshape(*index.shape, *values.shape[1:])
            for values in (self.x, self.y)
        )
        return x, y


def _read(own: Tensor, count: int, generators: Sequence[torch.Generator]) -> Indices | slice:
    """Which of `count` tasks of each generator are read: positions among all of them."""
    if len(own) == count:
        return slice(None)
    positions: Indices = (np.arange(len(generators))[:, None] * count + own.numpy()).ravel()
    return positions


def _batch(x: Tensor, y: Tensor, counts: Indices, *, width: int, padded: bool) -> Batch:
    """Tasks of which the first `counts` rows count, so wide."""
    x, y = (values[:, :width].contiguous() for values in (x, y))
    if not padded:
        return Batch(x, y)
    inside = torch.from_numpy(np.arange(width) < counts[:, None])
    return Batch(_masked(x, inside), _masked(y, inside), inside.to(x.dtype))


def renumbered(episode: Episode, order: Tensor) -> Episode:
    """Class `c` of task `t` becomes class `order[t, c]`; padding stays 0.

    Example:
        >>> batch = Batch(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]))
        >>> renumbered(Episode(batch, batch), torch.tensor([[2, 0, 1]])).support.y.tolist()
        [[2, 0]]
    """

    def changed(batch: Batch) -> Batch:
        y = order.gather(1, batch.y)
        return batch._replace(y=y if batch.weight is None else y * (batch.weight > 0))

    return Episode(*(changed(batch) for batch in episode))


def _stacks(order: Indices, rows: Indices) -> Iterator[Indices]:
    """Tasks of about equal size in stacks of bounded padded size; `order` sorts them by size."""
    start = 0
    while start < len(order):
        sizes = rows[order[start : start + ROWS_AT_ONCE]]
        # sizes grow, so the last task of a stack sets its width
        fitting = np.searchsorted(sizes * np.arange(1, len(sizes) + 1), ROWS_AT_ONCE, side="right")
        stop = start + max(1, int(fitting))
        yield order[start:stop]
        start = stop


def _masked(values: Tensor, inside: Tensor) -> Tensor:
    """The values of rows that count, 0 for padding."""
    # where, not a product: a target that is not known is NaN, and 0 * NaN is NaN
    counted = inside.reshape(*inside.shape, *(1 for _ in values.shape[2:]))
    return torch.where(counted, values, torch.zeros_like(values))
