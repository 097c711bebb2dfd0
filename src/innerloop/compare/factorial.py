"""Factorial experiment (ablation): meta-learning or conventional training x augmentation x dropout, on equal tasks.

Conventional training is one net on the rows of all tasks, fine-tuned to each task with a tuned step size and
stopping: the same network, episodes and meta-updates as the meta-learner (MAML) has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ..evaluation.intervals import Array, holm, mean_interval, two_way
from ..evaluation.scores import ERRORS, evaluate
from ..inner.model import Model
from ..outer.training import Gear
from ..tasks.augment import augmented, named
from ..tasks.splits import Tasks
from .contest import Effort, Progress, silent
from .nets import Bench, fine_tuned
from .result import Cell, Effect
from .search import HEADLINE, adapted, error_on, headline
from .workers import HERE, Workers

__all__ = ["Level", "augmentations", "effects", "factorial", "levels"]

LEARNING = ("conventional", "meta")
DROPOUT = (0.0, 0.1, 0.2, 0.5)
STEP_SIZES = (0.05, 0.2)


class Level(NamedTuple):
    """One combination of the three factors."""

    learning: str
    augmentation: str
    dropout: float


def augmentations(tasks: Tasks) -> tuple[str, ...]:
    """What changes rows of this kind, `none` first.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> augmentations(sinusoid())
        ('none', 'noise', 'mix')
    """
    if len(tasks.feature_shape) == 3:
        return ("none", "rotate", "flip", "crop")
    return ("none", "noise", "mix") if tasks.targets.kind == "regression" else ("none", "mix")


def levels(tasks: Tasks, dropout: Sequence[float] = DROPOUT) -> list[Level]:
    """Every combination."""
    return [Level(*level) for level in itertools.product(LEARNING, augmentations(tasks), dropout)]


def factorial(
    folds: Sequence[Tasks],
    effort: Effort,
    *,
    clusters: Sequence[str] = (),
    dropout: Sequence[float] = DROPOUT,
    tell: Progress = silent,
    workers: Workers = HERE,
) -> tuple[tuple[Cell, ...], tuple[Effect, ...]]:
    """The cells, and main effects and interactions with intervals over tasks and seeds: every combination is trained.

    Example:
        >>> from innerloop.tasks import sinusoid
        >>> tasks = sinusoid(n_support=5, episodes=8)
        >>> cells, effects = factorial([tasks], Effort(1, 1, 1), dropout=(0.0, 0.5))
        >>> len(cells), effects[0].factors
        (12, ('learning=meta',))
    """
    wanted = levels(folds[0], dropout)
    # augmentation changes no graph, so that cells of one dropout share theirs
    by_dropout = [[level for level in wanted if level.dropout == each] for each in dropout]
    calls = [partial(_scores_of, folds, effort, own) for own in by_dropout]
    values: dict[Level, Array] = {}
    tell("factorial", 0.0)
    for _, found in workers.run(calls):
        values |= found
        tell("factorial", len(values) / len(wanted))
    scores = np.stack([values[level] for level in wanted])
    errors = HEADLINE[folds[0].targets.kind] in ERRORS
    cells = tuple(
        Cell(*level, mean_interval(own.mean(1), clusters=clusters, errors=errors))
        for level, own in zip(wanted, scores, strict=True)
    )
    return cells, effects(wanted, scores, clusters=clusters)


def effects(wanted: Sequence[Level], scores: Array, *, clusters: Sequence[str] = ()) -> tuple[Effect, ...]:
    """Main effects and two-way interactions, as differences within tasks averaged over the other factors.

    Arguments:
        wanted: the combinations, complete.
        scores: `(combinations, tasks, seeds)`.
        clusters: the cluster of each task.
    """
    contrasts = list(_contrasts(wanted))
    tested = [two_way(np.einsum("c,cts->ts", weight, scores), clusters=clusters) for _, weight in contrasts]
    corrected = holm([p for _, p in tested])
    return tuple(
        Effect(factors, estimate, p)
        for (factors, _), (estimate, _), p in zip(contrasts, tested, corrected, strict=True)
    )


def _contrasts(wanted: Sequence[Level]) -> Iterator[tuple[tuple[str, ...], Array]]:
    """Names of levels and the weight of each cell: its share at these levels, less that at the first ones."""
    factors = Level._fields
    first = {factor: getattr(wanted[0], factor) for factor in factors}
    others = {f: list(dict.fromkeys(getattr(level, f) for level in wanted))[1:] for f in factors}

    def signed(factor: str, value: object) -> Array:
        """1 at a level, -1 at the first level, 0 at others."""
        at = [getattr(level, factor) for level in wanted]
        return np.array([1.0 if v == value else -1.0 if v == first[factor] else 0.0 for v in at])

    for factor in factors:
        for value in others[factor]:
            weight = signed(factor, value)
            yield (_level(factor, value),), weight / (weight > 0).sum()
    for one, two in itertools.combinations(factors, 2):
        for a, b in itertools.product(others[one], others[two]):
            weight = signed(one, a) * signed(two, b)
            both = (signed(one, a) > 0) & (signed(two, b) > 0)
            yield (_level(one, a), _level(two, b)), weight / both.sum()


def _level(factor: str, value: object) -> str:
    return f"{factor}={value:g}" if isinstance(value, float) else f"{factor}={value}"


def _scores_of(folds: Sequence[Tasks], effort: Effort, wanted: Sequence[Level]) -> dict[Level, Array]:
    """See `_scores`; of combinations that share their graphs."""
    gear = Gear(planned=effort.steps * effort.seeds * len(folds) * len(wanted))
    return {level: _scores(folds, effort, level, gear) for level in wanted}


def _scores(folds: Sequence[Tasks], effort: Effort, level: Level, gear: Gear) -> Array:
    """The headline metric of one combination `(tasks, seeds)`."""
    by_seed = []
    for seed in range(effort.seeds):
        evaluations = []
        for tasks in folds:
            changes = () if level.augmentation == "none" else named(level.augmentation)
            training = replace(tasks, train=augmented(tasks.train, *changes))
            options = {**effort.model, "dropout": level.dropout}
            bench = Bench(training, seed, effort.steps, options, effort.device, gear=gear)
            evaluations.append(evaluate(_trained(bench, level.learning), tasks.test, path=False, start=False))
        by_seed.append(headline(adapted(evaluations)))
    return np.stack(by_seed, 1)


def _trained(bench: Bench, learning: str) -> Model:
    if learning == "meta":
        return bench.train(bench.learner("maml", {}), {}).model
    models = [fine_tuned(bench, {"inner_lr": lr}) for lr in STEP_SIZES]
    return min(models, key=lambda model: error_on(model, bench.tasks, bench.tasks.valid))
