"""Task sources: where episodes come from. A source is immutable; all randomness comes in as a generator.

Every source draws stacked episodes: `sample` for training (fresh tasks, fresh support and query each time)
and `fixed` for evaluation (equal for equal seeds, so that all methods are scored on the same episodes).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UsageError
from .episodes import Batch, Episode, map_tensors, stack
from .row_source import ROWS_AT_ONCE, RowSource
from .sampling import Streams, without_replacement
from .support import SupportChoice, SupportSize, Targets, stream

__all__ = [
    "EVALUATION_SEED",
    "VALIDATION_SEED",
    "ClassSource",
    "DerivedSource",
    "FunctionSource",
    "RowSource",
    "SingleSource",
    "Source",
    "SupportChoice",
    "SupportSize",
    "Targets",
    "class_rows_of",
    "observed_variance",
    "require_source",
    "rows_of",
    "stream",
]

# Of episodes that score and that choose parameters: training draws from neither.
EVALUATION_SEED, VALIDATION_SEED = 20_240_229, 20_230_228


class Source(Protocol):
    """A distribution over tasks of one split."""

    @property
    def targets(self) -> Targets:
        """What the targets are."""

    @property
    def support(self) -> SupportSize:
        """How many rows form a support set."""

    @property
    def n_tasks(self) -> int | None:
        """Number of tasks; `None` where they never repeat."""

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """`count` stacked episodes for training."""

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """Evaluation episodes in stacks, with the task each belongs to; a task may come more than once."""


def rows_of(source: Source) -> Batch:
    """The rows that a direct fit sees, `(T, n, ...)`: all of a table, query rows of 1000 episodes of another source."""
    return source.whole() if isinstance(source, RowSource) else source.sample(1000, stream(0, 0)).query


def class_rows_of(source: Source) -> Batch:
    """Every row of the classes of a source once; a class is a number within a task.

    Of classes without tasks all are one task, `(1, N, ...)`; of a source without end it is what `rows_of` gives.
    """
    while isinstance(source, DerivedSource):
        source = source.source
    return source.whole() if isinstance(source, ClassSource) else rows_of(source)


def require_source(source: object, split: str) -> None:
    """Refuse what is no source of episodes, with the way to one.

    Arguments:
        source: what was given.
        split: the part of all tasks that is meant here: `train`, `valid` or `test`.

    Raises:
        UsageError: it is none.
    """
    needed = "sample" if split == "train" else "fixed"
    if hasattr(source, needed):
        return
    if hasattr(source, split):
        raise UsageError(f"these are the tasks of all three splits: give tasks.{split}")
    raise UsageError(
        f"a {type(source).__name__} is no source of tasks: give tasks.{split} of il.tasks.open, whose page says "
        f"what it takes, or an object with the method {needed!r} (il.tasks.Source)"
    )


@dataclass(frozen=True, eq=False)
class ClassSource:
    """n-way episodes from labelled arrays: each episode draws its classes, and which number each class gets.

    Arguments:
        x: `(N, *feature)`; bytes (uint8) are drawn as 0 to 1.
        index: `(classes, most)` rows of each class, padded with -1.
        n_way: classes an episode.
        support: shots a class.
        n_query: query rows a class.
        episodes: episodes of an evaluation.
        query_index: as `index`, where support and query rows of a class never change places; without it,
            every row may be either.

    Raises:
        DataError: there are too few classes, or a class has too few rows.
    """

    x: Tensor
    index: np.ndarray
    n_way: int
    support: SupportSize
    n_query: int = 15
    episodes: int = 600
    query_index: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Every class must give its shots and its queries."""
        if len(self.index) < self.n_way:
            raise DataError(f"n_way={self.n_way}, but this split has {len(self.index)} classes: lower n_way")
        fewest = int(self._sizes[0].min())
        needed = self.support.high + (self.n_query if self.query_index is None else 0)
        if fewest < needed:
            raise DataError(
                f"n_shot={self.support.high} and n_query={self.n_query} need {needed} rows a class, "
                f"and one class has {fewest}: lower one of them"
            )

    @property
    def targets(self) -> Targets:
        """Classes, numbered anew in each episode."""
        return Targets("classification", self.n_way)

    @property
    def n_tasks(self) -> None:
        """Episodes never repeat."""
        return

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`."""
        return next(self.samples(count, [generator]))

    def whole(self) -> Batch:
        """Every row of every class once, `(1, N, *feature)`, the classes numbered in their order."""
        both = (self.index, self.query_index) if self.query_index is not None else (self.index,)
        index = np.concatenate(both, axis=1)
        number, column = np.nonzero(index >= 0)
        x = self.features(torch.from_numpy(index[number, column]))
        return Batch(x.unsqueeze(0), torch.from_numpy(number).unsqueeze(0))

    @property
    def most_rows(self) -> int:
        """Rows of an episode, at most."""
        return self.n_way * (max(self.support.high, 1) + self.n_query)

    def samples(
        self, count: int, generators: Sequence[torch.Generator], own: Tensor | None = None
    ) -> Iterator[Episode]:
        """What `sample` gives for each generator; neighbours with equally many shots come as one stack of tasks.

        Arguments:
            count: tasks of each generator.
            generators: of what is drawn.
            own: positions among these tasks whose rows are read; all unless given.
        """
        shots = Streams(generators).integers(self.support.low, self.support.high).clip(1).tolist()
        for shot, group in itertools.groupby(zip(shots, generators, strict=True), key=lambda pair: pair[0]):
            yield self._episodes(count, shot, Streams([generator for _, generator in group]), own)

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: each episode is a task of its own."""
        rows = self.n_way * (self.support.high + self.n_query)
        size = max(1, min(50, ROWS_AT_ONCE // rows))
        return _numbered(self.sample, self.episodes, size, seed)

    def _episodes(self, count: int, shots: int, streams: Streams, own: Tensor | None = None) -> Episode:
        streams = streams.repeated(count)
        read = torch.arange(count) if own is None else own
        every = np.full(len(streams.owner), len(self.index))
        classes = without_replacement(every, np.full(len(every), self.n_way), streams)
        if self.query_index is None:
            rows = self._rows(self.index, classes, shots + self.n_query, streams)
            support, query = rows[:, :, :shots], rows[:, :, shots:]
        else:
            support = self._rows(self.index, classes, shots, streams)
            query = self._rows(self.query_index, classes, self.n_query, streams)
        sides = (rows.reshape(-1, count, *rows.shape[1:])[:, read].flatten(0, 1) for rows in (support, query))
        return Episode(*map(self._batch, sides))

    def _rows(self, index: np.ndarray, classes: np.ndarray, count: int, streams: Streams) -> Tensor:
        """`count` different rows of each class, `(T, W, count)`."""
        flat = classes.ravel()
        size = self._sizes[index is self.query_index][flat]
        column = without_replacement(size, np.full(len(flat), count), streams.repeated(self.n_way))
        return torch.from_numpy(index[flat[:, None], column].reshape(*classes.shape, count))

    @cached_property
    def _sizes(self) -> tuple[np.ndarray, ...]:
        """Rows of each class, as `index` and as `query_index` have them."""
        return tuple((index >= 0).sum(1) for index in (self.index, self.query_index) if index is not None)

    def _batch(self, rows: Tensor) -> Batch:
        label = torch.arange(self.n_way).reshape(1, -1, 1).expand(rows.shape)
        return Batch(self.features(rows.flatten(1)), label.flatten(1).contiguous())

    def features(self, rows: Tensor) -> Tensor:
        """Features of rows by their number, `(*rows, *feature)`, bytes as 0 to 1."""
        x = self.x[rows]
        # images stay bytes until they are drawn, a quarter of the memory
        return x.float() / 255 if x.dtype == torch.uint8 else x


@dataclass(frozen=True, eq=False)
class FunctionSource:
    """Episodes from a function.

    Arguments:
        draw: `(count, generator) -> Episode`, stacked.
        targets: what the targets are.
        support: support rows a task.
        episodes: episodes of an evaluation.
    """

    draw: Callable[[int, torch.Generator], Episode]
    targets: Targets
    support: SupportSize
    episodes: int = 600

    @property
    def n_tasks(self) -> None:
        """Tasks never repeat."""
        return

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`."""
        return self.draw(count, generator)

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: each episode is a task of its own."""
        return _numbered(self.draw, self.episodes, 100, seed)


@dataclass(frozen=True, eq=False)
class SingleSource:
    """Mini-batches of one data set as tasks.

    Arguments:
        rows: `(indices) -> (x, y)` for a batch of the data set.
        size: rows of the data set.
        batch_size: rows an episode.
        targets: what the targets are.
        split: `half` draws disjoint halves of each batch as support and query; `none` uses the whole batch as
            both, the recipe of many tutorials, which scores a model on rows it has adapted to.
    """

    rows: Callable[[Sequence[int]], tuple[object, Tensor]]
    size: int
    batch_size: int
    targets: Targets
    split: str = "half"

    @property
    def support(self) -> SupportSize:
        """Half of a batch, or all of it."""
        count = self.batch_size if self.split == "none" else self.batch_size // 2
        return SupportSize(count, count)

    @property
    def n_tasks(self) -> int:
        """Batches a pass over the data."""
        return self.size // self.batch_size

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`: every episode is a fresh random batch."""
        orders = (torch.randperm(self.size, generator=generator) for _ in range(count))
        return stack([self._episode(order[: self.batch_size]) for order in orders])

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: one pass over the data in a seeded order."""
        order = torch.randperm(self.size, generator=stream(seed))
        whole = order[: self.n_tasks * self.batch_size]
        for number, rows in enumerate(torch.split(whole, self.batch_size)):
            yield [f"batch {number}"], stack([self._episode(rows)])

    def _episode(self, rows: Tensor) -> Episode:
        x, y = self.rows(rows.tolist())
        half = len(rows) // 2
        if self.split == "none":
            return Episode(Batch(x, y), Batch(x, y))
        return Episode(
            Batch(map_tensors(lambda t: t[:half], x), y[:half]),
            Batch(map_tensors(lambda t: t[half : 2 * half], x), y[half : 2 * half]),
        )


@dataclass(frozen=True, eq=False)
class DerivedSource:
    """Base of sources whose training episodes are those of another source, changed; fixed episodes are not.

    Arguments:
        source: where the tasks come from.
    """

    source: Source

    @property
    def targets(self) -> Targets:
        """Those of the source."""
        return self.source.targets

    @property
    def support(self) -> SupportSize:
        """That of the source."""
        return self.source.support

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: as in the source."""
        return self.source.fixed(seed)


def _numbered(
    draw: Callable[[int, torch.Generator], Episode], episodes: int, size: int, seed: int
) -> Iterator[tuple[list[str], Episode]]:
    """Evaluation episodes in stacks of `size`, each a task of its own."""
    for start in range(0, episodes, size):
        names = [f"episode {number}" for number in range(start, min(start + size, episodes))]
        yield names, draw(len(names), stream(seed, start))


def observed_variance(episode: Episode) -> tuple[float, ...]:
    """Variance of each target over the query rows of sampled tasks, `(C,)`."""
    values = episode.query.y.flatten(0, 1).double()
    return tuple(values.reshape(len(values), -1).var(0, unbiased=False).tolist())
