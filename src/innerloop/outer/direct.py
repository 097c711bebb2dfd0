"""Training without meta-updates: learners that find their meta-parameters by an optimisation of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ..inner.learner import Learner
from ..models.network import Params, reference
from ..tasks.episodes import Batch, Episode, to
from ..tasks.sources import DerivedSource, RowSource, Source, class_rows_of, rows_of, stream
from .prefetch import EPISODES

__all__ = ["direct_fit", "episodes_of_all_sizes"]

# query rows that a fit on episodes gets, and passes over the tasks, at least and at most
_ROWS, _PASSES = 8000, (4, 100)


def direct_fit(
    learner: Learner, meta: Params, source: Source, *, seed: int = 0
) -> tuple[Params, tuple[str, ...]] | None:
    """Meta-parameters that a learner finds without gradients, with its remarks; `None` if it does not.

    Arguments:
        learner: the algorithm.
        meta: where it starts.
        source: meta-train tasks. The learner gets all their rows and, where it asks for them, episodes.
        seed: of the episodes.

    Example:
        >>> import innerloop as il
        >>> learner = il.mixed(1)
        >>> sorted(direct_fit(learner, learner.init(), il.tasks.sinusoid().train)[0])
        ['head/log_noise', 'head/mean', 'head/root']
    """
    if not learner.fits_directly:
        return None
    rows = to(class_rows_of(source) if learner.fits_classes else rows_of(source), reference(meta).device)
    fitted = learner.fit(meta, rows)
    if fitted is None:
        return None
    if learner.fits_on_episodes:
        fitted = learner.fit_episodes(fitted, list(episodes_of_all_sizes(source, seed=seed)))
    return fitted, learner.remarks(fitted, rows)


def episodes_of_all_sizes(source: Source, *, seed: int = 0) -> Iterator[tuple[list[str], Episode]]:
    """Stacks of episodes and their tasks: half with support sets as asked for, half of all sizes from 0 to that.

    Arguments:
        source: tasks; where they never repeat, each episode is a task of its own.
        seed: of the episodes.

    Example:
        >>> import innerloop as il
        >>> sizes = [
        ...     episode.support.rows
        ...     for _, episode in episodes_of_all_sizes(il.tasks.sinusoid(episodes=50).train)
        ... ]
        >>> len(sizes) > 0
        True
    """
    while isinstance(source, DerivedSource):
        source = source.source
    if not isinstance(source, RowSource):
        yield from source.fixed(seed)
        return
    rows = np.minimum(np.diff(source.starts), source.n_query)
    passes = int(np.clip(math.ceil(_ROWS / max(1, rows.sum())), *_PASSES))
    asked = replace(source, draws=math.ceil(passes / 2))
    fewer = replace(asked, support=source.support._replace(low=0))
    for number, each in enumerate((asked, fewer)):
        for part, (names, episode) in enumerate(each.fixed(seed + 1)):
            yield names, Episode(episode.support, _fewer_rows(episode.query, source.n_query, (number, part)))


def _fewer_rows(query: Batch, most: int, path: tuple[int, int]) -> Batch:
    """At most so many query rows of each task of a stack, drawn at random."""
    if query.y.shape[1] <= most:
        return query
    chance = torch.rand(query.y.shape[:2], generator=stream(0, EPISODES, *path))
    if query.weight is not None:
        chance = chance + (query.weight == 0)
    chosen = chance.argsort(1)[:, :most]
    task = torch.arange(len(chosen), device=chosen.device)[:, None]
    return Batch(
        query.x[task, chosen],
        query.y[task, chosen],
        None if query.weight is None else query.weight[task, chosen],
    )
