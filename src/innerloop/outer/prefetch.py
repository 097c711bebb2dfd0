"""Prefetch: the episodes of coming updates, drawn in blocks by a thread while the current updates run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ..tasks.episodes import Episode, bucketed, map_tensors, select, to
from ..tasks.sources import ClassSource, RowSource, Source, stream

__all__ = ["EPISODES", "Block", "blocks_of", "task_keys"]

# of the streams of one seed, those of training; validation and evaluation have seeds of their own
EPISODES = 0
# steps whose episodes are drawn together: far cheaper for each, as long as they are small; a row takes some bytes more
# while it is drawn than it has
_MOST_AT_ONCE, _BYTES_AT_ONCE, _BYTES_A_ROW = 32, 2**22, 100


class Block(NamedTuple):
    """Episodes and dropout streams of consecutive updates.

    Arguments:
        first: number of the first update.
        episode: episodes with a leading axis of updates before that of tasks.
        key: dropout streams `(updates, T)`, of the whole meta-batch where the episodes are a part of it.
    """

    first: int
    episode: Episode
    key: Tensor

    def part(self, start: int, end: int) -> Block:
        """Some of the updates."""
        return Block(self.first + start, select(self.episode, slice(start, end)), self.key[start:end])

    def at(self, number: int) -> Block:
        """One of the updates, without their axis."""
        episode: Episode = map_tensors(lambda t: t[number], self.episode)
        return Block(self.first + number, episode, self.key[number])


def blocks_of(
    source: Source,
    count: int,
    seed: int,
    steps: int,
    cut: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    rounded: bool,
    start: int = 0,
    own: Tensor | None = None,
) -> Iterator[Block]:
    """Episodes and dropout streams of all updates of a training, in blocks of equal shapes.

    The episodes of update `k` come from `(seed, k)` alone. Those of sources of rows and of classes are prefetched,
    several updates at once where they are small; other sources are asked update by update.

    Arguments:
        source: of the episodes.
        count: episodes an update.
        seed: of everything random.
        steps: updates.
        cut: a block ends at every multiple of this.
        device: where the blocks are used.
        dtype: of floating tensors.
        rounded: see `episodes.bucketed`.
        start: the first update.
        own: positions of the tasks of a meta-batch that are wanted, ascending; all unless given. The episodes are those
            that these tasks have among all.
    """
    # not of a class made from these, which may have a `sample` of its own
    exact = type(source) in (RowSource, ClassSource)
    known = source if exact and isinstance(source, (RowSource, ClassSource)) else None
    widths = known.widths if isinstance(known, RowSource) else (None, None)

    def draw(first: int, last: int) -> Iterator[Block]:
        streams = [stream(seed, EPISODES, step) for step in range(first, last)]
        if known:
            episodes = known.samples(count, streams, own)
        else:
            drawn = (source.sample(count, one) for one in streams)
            episodes = drawn if own is None else (select(episode, own) for episode in drawn)
        for episode in episodes:
            updates = episode.n_tasks // (count if own is None else len(own)) if known else 1
            tasks = count if known or own is not None else episode.n_tasks
            read = episode.n_tasks // updates
            moved = to(bucketed(episode, widths) if rounded else episode, device, dtype)
            several: Episode = map_tensors(lambda t: t.reshape(updates, read, *t.shape[1:]), moved)  # noqa: B023
            # from what the episodes have left of their streams
            left = streams[first - last :][:updates]
            yield Block(first, several, torch.stack([task_keys(tasks, one) for one in left]).to(device))
            first += updates

    if known is None:
        for step in range(start, steps):
            yield from draw(step, step + 1)
        return
    size = count * known.most_rows * (known.x[:1].nbytes + _BYTES_A_ROW)
    several = max(1, min(_MOST_AT_ONCE, _BYTES_AT_ONCE // max(size, 1)))
    with ThreadPoolExecutor(1, "episodes") as pool:
        pending = (pool.submit(list, draw(*ends)) for ends in _stretches(start, steps, several, cut))
        following = next(pending, None)
        while following is not None:
            drawn, following = following.result(), next(pending, None)
            yield from drawn


def _stretches(first: int, steps: int, most: int, cut: int) -> Iterator[tuple[int, int]]:
    """From `first` to `steps` in stretches of at most so many, none across a multiple of `cut`."""
    while first < steps:
        last = min(first + most, steps, (first // cut + 1) * cut)
        yield first, last
        first = last


def task_keys(count: int, generator: torch.Generator) -> Tensor:
    """A dropout stream for each of `count` tasks, `(count,)` int64."""
    return torch.randint(-(2**62), 2**62, (count,), generator=generator)
