"""Hyperparameter search on meta-validation tasks: the same number of tries for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import DivergedError
from ..evaluation.intervals import Array
from ..evaluation.scores import Evaluation, evaluate, over_folds
from ..inner.model import Model
from ..tasks.sources import Source
from ..tasks.splits import Tasks
from .methods import Entrant
from .nets import Bench, Settings

__all__ = ["HEADLINE", "Chosen", "adapted", "error_on", "headline", "search"]

HEADLINE = {"regression": "error_over_variance", "classification": "accuracy"}


class Chosen(NamedTuple):
    """The result of a search.

    Arguments:
        settings: the best ones.
        tried: how many were tried.
        error: mean error of the best ones on the meta-validation tasks; NaN where there was no choice to make.
    """

    settings: Settings
    tried: int
    error: float


def search(entrant: Entrant, bench: Bench, *, tries: int, share: float = 0.25) -> Chosen:
    """The settings of a method with the lowest error on meta-validation tasks.

    Every method may try as many settings, its sound ones first; where it has no others there is nothing to try. What
    takes meta-updates is tried with a share of them.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> from innerloop.compare.methods import entrant
        >>> tasks = sinusoid(n_support=5, episodes=20)
        >>> search(entrant(tasks, "alone_neighbours"), Bench(tasks, 0, 10), tries=2).tried
        2
    """
    grid = entrant.grid[: max(1, tries)]
    if len(grid) == 1:
        return Chosen(grid[0], 1, np.nan)
    in_part = entrant.trained and not entrant.reuses
    short = replace(bench, steps=max(1, round(bench.steps * share)), runs={}) if in_part else bench
    errors = [_error(entrant, short, settings) for settings in grid]
    best = int(np.argmin(errors))
    return Chosen(grid[best], len(grid), errors[best])


def _error(entrant: Entrant, bench: Bench, settings: Settings) -> float:
    try:
        return error_on(entrant.fit(bench, settings).model, bench.tasks, bench.tasks.valid)
    except DivergedError:
        return np.inf


def error_on(model: Model, tasks: Tasks, source: Source) -> float:
    """Mean error of a model after adaptation: error over variance, or one minus the accuracy."""
    mean = float(headline(evaluate(model, source, path=False, start=False)).mean())
    if not np.isfinite(mean):
        return np.inf
    return mean if tasks.targets.kind == "regression" else 1 - mean


def headline(evaluation: Evaluation) -> Array:
    """The headline metric of every task after adaptation, `(T,)`."""
    return evaluation.values[HEADLINE[evaluation.targets.kind]][:, -1]


def adapted(folds: Sequence[Evaluation]) -> Evaluation:
    """The scores after adaptation of the tasks of all folds, whatever the numbers of inner steps."""
    return over_folds([replace(fold.at(len(fold.steps) - 1), steps=(0,)) for fold in folds])
