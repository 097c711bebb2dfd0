"""How training tasks are put together: always the same, with other labels, from other classes, or drawn anew.

Every composition adds randomness to the one before; evaluation is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ..errors import UsageError
from .augment import augmented, named_one, permute
from .episodes import Episode, select
from .sampling import without_replacement
from .sources import ClassSource, DerivedSource, Source
from .support import stream

__all__ = ["COMPOSITIONS", "Composition", "Recomposed", "composed"]

# of tasks that never repeat, a fixed set holds this many
_FIXED = 1000
# draws of the support for inner steps, which take them in turn
_RESPLITS = 16


class Composition(NamedTuple):
    """How training tasks are put together: `make(source, seed)` gives the source, `about` says how."""

    about: str
    make: Callable[[Source, int], Source]


@dataclass(frozen=True, eq=False)
class Recomposed(DerivedSource):
    """A source whose training episodes are drawn in another way; its fixed episodes are not.

    Arguments:
        source: where the tasks come from.
        draw: `(count, generator) -> Episode`, stacked.
        n_tasks: number of training tasks; `None` where they never repeat.
    """

    draw: Callable[[int, torch.Generator], Episode]
    n_tasks: int | None

    def sample(self, count: int, generator: torch.Generator) -> Episode:
        """See `Source.sample`."""
        return self.draw(count, generator)


def _fixed(source: Source, seed: int) -> Source:
    pool = source.sample(source.n_tasks or _FIXED, stream(seed, 1))

    def draw(count: int, generator: torch.Generator) -> Episode:
        if count > pool.n_tasks:
            return select(pool, torch.randint(pool.n_tasks, (count,), generator=generator))
        chosen = without_replacement(np.array([pool.n_tasks]), np.array([count]), generator)[0]
        return select(pool, torch.from_numpy(chosen))

    return Recomposed(source, draw, pool.n_tasks)


def _permuted(source: Source, seed: int) -> Source:
    if source.targets.kind != "classification":
        raise UsageError("composition 'permuted' gives classes other numbers, and these tasks are regression")
    return augmented(_fixed(source, seed), permute)


def _recombined(source: Source, seed: int) -> Source:
    if not isinstance(source, ClassSource):
        raise UsageError(
            "composition 'recombined' puts classes together anew, and these tasks are no n-way episodes: "
            "choose fixed or fresh"
        )
    counts = (source.index >= 0).sum(1)
    keys = torch.rand(source.index.shape, generator=stream(seed, 1)).numpy()
    order = np.argsort(np.where(source.index >= 0, keys, np.inf), axis=1)
    rows = np.take_along_axis(source.index, order, 1)
    # in the proportion of an episode, both parts large enough for one
    low = source.support.high
    first = np.clip(np.round(counts * low / (low + source.n_query)), low, counts - source.n_query)
    position = np.arange(rows.shape[1])
    index = np.where(position < first[:, None], rows, -1)
    late = np.take_along_axis(rows, (position + first[:, None].astype(np.int64)) % rows.shape[1], 1)
    query = np.where(position < (counts - first)[:, None], late, -1)
    divided = replace(source, index=index, query_index=query)
    return Recomposed(source, divided.sample, None)


def _resplit(source: Source, seed: int) -> Source:
    def draw(count: int, generator: torch.Generator) -> Episode:
        episode = source.sample(count, generator)
        weight = episode.support.weight
        weight = torch.ones(episode.support.y.shape[:2]) if weight is None else weight
        # a random order of the rows for each step, padding last, of which the first half is taken
        keys = torch.rand(*weight.shape, _RESPLITS, generator=generator) + 2.0 * (weight == 0)[..., None]
        rank = keys.argsort(1).argsort(1)
        halves = rank < (weight > 0).sum(1)[:, None, None].add(1).div(2, rounding_mode="floor")
        return episode._replace(support=episode.support._replace(weight=halves.to(weight.dtype)))

    return Recomposed(source, draw, source.n_tasks)


COMPOSITIONS: dict[str, Composition] = {
    "fixed": Composition("each task has one support set and one query set, drawn once", _fixed),
    "permuted": Composition("as fixed, and classes get other numbers at each visit", _permuted),
    "recombined": Composition(
        "n-way tasks of any classes; a row is always support or always query", _recombined
    ),
    "fresh": Composition(
        "support and query are drawn anew at each visit (default)", lambda source, _: source
    ),
    "resplit": Composition(
        "as fresh, and each inner step adapts to another random half of the support", _resplit
    ),
}


def composed(source: Source, name: str = "fresh", *, seed: int = 0) -> Source:
    """The source with its training tasks put together in another way; its fixed episodes stay.

    Every choice adds randomness to the one before: `fixed`, `permuted`, `recombined`, `fresh`, `resplit`, see
    `COMPOSITIONS`. Of tasks without end, `fixed` and `permuted` keep 1,000. What has no inner steps, and Reptile on
    all rows, takes the whole support with `resplit` too.

    Arguments:
        source: where episodes come from.
        name: of the composition.
        seed: of what is drawn once.

    Returns:
        The source.

    Raises:
        UsageError: the name is unknown, or has no meaning for these tasks.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> composed(sinusoid(n_support=5).train, "fixed").n_tasks
        1000
    """
    return named_one(name, COMPOSITIONS, "composition").make(source, seed)
