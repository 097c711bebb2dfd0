"""Task sources: where episodes come from. A source is immutable; all randomness comes in as a generator.

Every source draws stacked episodes: `sample` for training (fresh tasks, fresh support and query each time)
and `fixed` for evaluation (equal for equal seeds, so that all methods are scored on the same episodes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .episodes import Batch, Episode, map_tensors, stack, tensors
from .errors import DataError, UsageError

# rows, padding included, that one stack of evaluation episodes may hold
_ROWS_AT_ONCE = 65_536


def stream(seed: int, *path: int) -> torch.Generator:
    """A generator for one place in a run: equal numbers, equal stream; near numbers, unrelated streams.

    Example:
        >>> bool(torch.rand(1, generator=stream(0, 7)) == torch.rand(1, generator=stream(0, 7)))
        True
    """
    state = np.random.SeedSequence([seed, *path]).generate_state(2, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


class SupportSize(NamedTuple):
    """How many rows form a support set: from `low` to `high`, a task (`n_support`) or a class (`n_shot`)."""

    low: int
    high: int
    per_class: bool = False

    @staticmethod
    def parse(n_support: int | str | None, n_shot: int | str | None) -> SupportSize:
        """Exactly one of the two, a number or a range such as `1-8`.

        Raises:
            UsageError: both or none are given, or one is not a number or range.

        Example:
            >>> SupportSize.parse(None, "1-8")
            SupportSize(low=1, high=8, per_class=True)
        """
        if (n_support is None) == (n_shot is None):
            raise UsageError("give exactly one of n_support (rows a task) and n_shot (rows a class)")
        name, value = ("n_support", n_support) if n_shot is None else ("n_shot", n_shot)
        low, dash, high = str(value).partition("-")
        try:
            size = SupportSize(int(low), int(high if dash else low), name == "n_shot")
        except ValueError:
            raise UsageError(f"{name}={value!r}: give a number such as 5 or a range such as 1-8") from None
        if not 0 <= size.low <= size.high or size.high < 1:
            raise UsageError(f"{name}={value!r}: a range goes from a smaller to a larger positive number")
        return size

    def __str__(self) -> str:
        """`5` or `1-8`."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


class Targets(NamedTuple):
    """What the targets are, for losses and scores.

    Arguments:
        kind: `regression` or `classification`.
        n_outputs: outputs a model needs: targets, or classes.
        scale: natural units per unit of `y`, one a target (regression).
        variance: variance of the meta-train targets in units of `y`, one a target (regression).
    """

    kind: str
    n_outputs: int
    scale: tuple[float, ...] = (1.0,)
    variance: tuple[float, ...] = (1.0,)


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


@dataclass(frozen=True, eq=False)
class RowSource:
    """Rows of a table, grouped by task.

    Arguments:
        x: `(N, *feature)`, sorted by task.
        y: `(N, C)` floating targets or `(N,)` class numbers.
        starts: first row of each task, and `N`.
        ids: name of each task.
        support: how many rows form a support set.
        targets: what `y` means.
        n_query: largest number of query rows of a training episode; evaluation uses all.
        draws: support sets drawn for each task in evaluation.
        ordered: rows are in order within a task: the first ones are support, later ones query.

    Raises:
        DataError: a task has fewer than two rows.
    """

    x: Tensor
    y: Tensor
    starts: np.ndarray
    ids: tuple[str, ...]
    support: SupportSize
    targets: Targets
    n_query: int = 32
    draws: int = 10
    ordered: bool = False

    def __post_init__(self) -> None:
        """Every task must give a support and a query row."""
        rows = np.diff(self.starts)
        if len(rows) and rows.min() < 2:
            task = int(rows.argmin())
            raise DataError(f"task {self.ids[task]!r} has {rows[task]} row: support and query need 2 or more")

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`; distinct tasks as long as there are enough."""
        if count <= self.n_tasks:
            chosen = torch.randperm(self.n_tasks, generator=generator)[:count]
        else:
            chosen = torch.randint(self.n_tasks, (count,), generator=generator)
        return self._episode(chosen.numpy(), generator, self.n_query)

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: `draws` supports of each task, all its other rows are query."""
        rows = np.diff(self.starts)
        order = np.argsort(rows, kind="stable")
        # there is one way to take the first rows
        for draw in range(1 if self.ordered else self.draws):
            for number, tasks in enumerate(_blocks(order, rows)):
                episode = self._episode(tasks, stream(seed, draw, number), None)
                yield [self.ids[task] for task in tasks], episode

    def whole(self) -> Batch:
        """All rows of every task, stacked and padded."""
        counts = np.diff(self.starts)
        return self._rows(self.starts[:-1, None] + np.arange(counts.max()), counts)

    def _episode(self, tasks: np.ndarray, generator: torch.Generator, n_query: int | None) -> Episode:
        starts, rows = self.starts[tasks], self.starts[tasks + 1] - self.starts[tasks]
        longest = int(rows.max())
        keys = torch.rand(len(tasks), longest, generator=generator).numpy()
        keys[np.arange(longest) >= rows[:, None]] = np.inf
        size = torch.randint(
            self.support.low, self.support.high + 1, (len(tasks),), generator=generator
        ).numpy()
        if self.ordered:
            n_support = np.minimum(size, rows - 1)
            position = np.arange(longest)
            # the first rows stay in place, the later ones are shuffled
            early = np.where(position < n_support[:, None], position - longest, keys)
            order = np.argsort(early, axis=1)
        elif self.support.per_class:
            order, n_support = self._by_class(starts, rows, keys, size)
        else:
            order = np.argsort(keys, axis=1)
            n_support = np.minimum(size, rows - 1)
        place = starts[:, None] + order
        query = rows - n_support if n_query is None else np.minimum(rows - n_support, n_query)
        widest = np.arange(int(query.max()))
        shifted = np.minimum(n_support[:, None] + widest, longest - 1)
        return Episode(
            self._rows(place[:, : int(n_support.max())], n_support),
            self._rows(np.take_along_axis(place, shifted, 1), query),
        )

    def _by_class(
        self, starts: np.ndarray, rows: np.ndarray, keys: np.ndarray, shots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Order that puts `shots` rows of each class first; every class keeps a query row where it can."""
        longest = keys.shape[1]
        position = np.minimum(starts[:, None] + np.arange(longest), len(self.y) - 1)
        present = np.arange(longest) < rows[:, None]
        label = np.where(present, self.y.numpy()[position], np.iinfo(np.int32).max)
        by_label = np.lexsort((keys, label), axis=1)
        label_sorted = np.take_along_axis(label, by_label, 1)
        new = np.ones_like(label_sorted, dtype=bool)
        new[:, 1:] = label_sorted[:, 1:] != label_sorted[:, :-1]
        first = np.maximum.accumulate(np.where(new, np.arange(longest), 0), axis=1)
        rank = np.arange(longest) - first
        last = np.ones_like(new)
        last[:, :-1] = new[:, 1:]
        end = np.flip(
            np.minimum.accumulate(np.flip(np.where(last, np.arange(longest), longest), 1), axis=1), 1
        )
        count = end - first + 1
        shot = np.minimum(shots[:, None], np.maximum(count - 1, 1))
        sorted_present = np.take_along_axis(present, by_label, 1)
        chosen = (rank < shot) & sorted_present
        # a task of one class, or of single rows a class, must keep a query row
        full = chosen.sum(1) >= rows
        chosen[full, rows[full] - 1] = False
        inside = np.where(sorted_present, np.take_along_axis(keys, by_label, 1), np.inf)
        final = np.argsort(np.where(chosen, inside - 2.0, inside), axis=1)
        return np.take_along_axis(by_label, final, 1), chosen.sum(1)

    def _rows(self, index: np.ndarray, counts: np.ndarray) -> Batch:
        width = index.shape[1]
        rows = torch.from_numpy(np.minimum(index, len(self.y) - 1))
        x, y = self.x[rows], self.y[rows]
        if len(counts) == 0 or counts.min() == width:
            return Batch(x, y)
        kept = torch.from_numpy(np.arange(width) < counts[:, None])
        return Batch(_masked(x, kept), _masked(y, kept), kept.to(x.dtype))


def _blocks(order: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Tasks of about equal size in blocks of bounded padded size."""
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * rows[order[stop]] <= _ROWS_AT_ONCE:
            stop += 1
        yield order[start:stop]
        start = stop


def _masked(values: Tensor, kept: Tensor) -> Tensor:
    return values * kept.reshape(*kept.shape, *(1 for _ in values.shape[2:])).to(values.dtype)


@dataclass(frozen=True, eq=False)
class ClassSource:
    """n-way episodes from labelled arrays: each episode draws its classes, and which number each class gets.

    Arguments:
        x: `(N, *feature)`.
        index: `(classes, most)` rows of each class, padded with -1.
        n_way: classes an episode.
        support: shots a class.
        n_query: query rows a class.
        episodes: episodes of an evaluation.

    Raises:
        DataError: there are too few classes, or a class has too few rows.
    """

    x: Tensor
    index: np.ndarray
    n_way: int
    support: SupportSize
    n_query: int = 15
    episodes: int = 600

    def __post_init__(self) -> None:
        """Every class must give its shots and its queries."""
        if len(self.index) < self.n_way:
            raise DataError(f"n_way={self.n_way}, but this split has {len(self.index)} classes: lower n_way")
        fewest = int((self.index >= 0).sum(1).min())
        needed = self.support.high + self.n_query
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
        shots = int(torch.randint(self.support.low, self.support.high + 1, (1,), generator=generator))
        return self._episode(count, max(shots, 1), generator)

    def fixed(self, seed: int) -> Iterator[tuple[list[str], Episode]]:
        """See `Source.fixed`: each episode is a task of its own."""
        size = max(1, min(50, _ROWS_AT_ONCE // (self.n_way * (self.support.high + self.n_query))))
        for start in range(0, self.episodes, size):
            generator = stream(seed, start)
            names = [f"episode {number}" for number in range(start, min(start + size, self.episodes))]
            yield names, self.sample(len(names), generator)

    def _episode(self, count: int, shots: int, generator: torch.Generator) -> Episode:
        n_classes, most = self.index.shape
        classes = torch.rand(count, n_classes, generator=generator).argsort(1)[:, : self.n_way].numpy()
        keys = torch.rand(count, self.n_way, most, generator=generator).numpy()
        rows = self.index[classes]
        keys[rows < 0] = np.inf
        order = np.argsort(keys, axis=2)[..., : shots + self.n_query]
        rows = torch.from_numpy(np.take_along_axis(rows, order, 2))
        label = torch.arange(self.n_way).reshape(1, -1, 1).expand(rows.shape)

        def batch(part: slice) -> Batch:
            return Batch(self.x[rows[:, :, part].flatten(1)], label[:, :, part].flatten(1).contiguous())

        return Episode(batch(slice(0, shots)), batch(slice(shots, None)))


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
        for start in range(0, self.episodes, 100):
            names = [f"episode {number}" for number in range(start, min(start + 100, self.episodes))]
            yield names, self.draw(len(names), stream(seed, start))


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

    rows: Callable[[Sequence[int]], tuple[Any, Tensor]]
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
        return stack(
            [
                self._episode(torch.randperm(self.size, generator=generator)[: self.batch_size])
                for _ in range(count)
            ]
        )

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


def observed_variance(episode: Episode) -> tuple[float, ...]:
    """Variance of each target over the query rows of sampled tasks, `(C,)`."""
    values = next(tensors(episode.query.y)).flatten(0, 1).double()
    return tuple(values.reshape(len(values), -1).var(0, unbiased=False).tolist())
