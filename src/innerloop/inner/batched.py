"""Adapting to many tasks and predicting for them, several tasks in one stack."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.network import Params
from ..tasks.episodes import Batch, Episode, map_tensors, stack, tensors
from ..tasks.row_source import ROWS_AT_ONCE
from .learner import without_padding
from .model import Adapted, Model
from .owned import length_of, of_task, open_axes, stack_owned

__all__ = ["adapt_tasks", "deviations", "predict_adapted", "predict_tasks", "support_losses"]

# tasks of a stack at most, and its values of features, padding included
_AT_ONCE, _VALUES_AT_ONCE = 256, 2**24


def adapt_tasks(model: Model, supports: Sequence[Batch], *, steps: int | None = None) -> list[Adapted]:
    """Adapt to many tasks; each result is that of `Model.adapt` on its support set alone.

    Arguments:
        model: the model.
        supports: support rows of each task.
        steps: inner steps; as in training unless given.

    Returns:
        What each task predicts with.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> one, two = Batch(torch.zeros(2, 1), torch.ones(2, 1)), Batch(torch.zeros(3, 1), torch.ones(3, 1))
        >>> [task(torch.zeros(1, 1)).shape[0] for task in adapt_tasks(model, [one, two])]
        [1, 1]
    """
    adapted = [model.base()] * len(supports)
    axes = open_axes(model.learner.own_like(model.meta))
    for positions, part in _stacks(model, [Episode(support, support) for support in supports]):
        with torch.no_grad():
            own = model.learner.adapt(model.meta, part.support, steps=steps)
        for row, position in enumerate(positions):
            adapted[position] = Adapted(model, of_task(own, row, axes, supports[position].rows))
    return adapted


def predict_adapted(tasks: Sequence[Adapted], queries: Sequence[Any]) -> list[Any]:
    """Predict for many adapted tasks of one model; each result is that of calling the task alone.

    Arguments:
        tasks: what each task predicts with.
        queries: query features of each task.

    Returns:
        Predictions of each task, `(n, *out)`.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> [
        ...     part.shape[0]
        ...     for part in predict_adapted([model.base()] * 2, [torch.ones(1, 1), torch.ones(3, 1)])
        ... ]
        [1, 3]
    """
    predictions: list[object] = [None] * len(tasks)
    rows = [_blank(x) for x in queries]
    for positions, own, part in _adapted_stacks(tasks, rows):
        model = tasks[positions[0]].model
        with torch.no_grad():
            stacked = model.learner.predict(model.meta, own, part.x)
        for row, position in enumerate(positions):
            predictions[position] = _rows_of(stacked, row, rows[position].rows)
    return predictions


def deviations(tasks: Sequence[Adapted], queries: Sequence[object]) -> list[Tensor] | None:
    """Predictive standard deviations of many adapted tasks of one model; each is that of `Adapted.deviation`.

    Arguments:
        tasks: what each task predicts with.
        queries: query features of each task.

    Returns:
        Deviations of each task, `(n, C)`; `None` where the algorithm says nothing of them.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> [part.shape for part in deviations([Model(learner, learner.init()).base()], [torch.ones(3, 1)])]
        [torch.Size([3, 1])]
    """
    found: dict[int, Tensor] = {}
    rows = [_blank(x) for x in queries]
    for positions, own, part in _adapted_stacks(tasks, rows):
        model = tasks[positions[0]].model
        with torch.no_grad():
            variance = model.learner.variance(model.meta, own, part.x)
        if variance is None:
            return None
        for row, position in enumerate(positions):
            found[position] = variance[row, : rows[position].rows].sqrt()
    return [found[position] for position in range(len(tasks))]


def support_losses(tasks: Sequence[Adapted], supports: Sequence[Batch]) -> list[float]:
    """Mean loss of each adapted task on its own support rows; NaN where it has none.

    Arguments:
        tasks: what each task predicts with.
        supports: support rows of each task.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner, rows = mixed(1), Batch(torch.zeros(2, 1), torch.zeros(2, 1))
        >>> round(support_losses([Model(learner, learner.init()).base()], [rows])[0], 3)
        1.266
    """
    losses = [math.nan] * len(tasks)
    for positions, own, part in _adapted_stacks(tasks, supports):
        model = tasks[positions[0]].model
        with torch.no_grad():
            stacked = model.learner.loss(model.meta, own, part)
        for row, position in enumerate(positions):
            losses[position] = float(stacked[row]) if supports[position].rows else math.nan
    return losses


def _adapted_stacks(
    tasks: Sequence[Adapted], rows: Sequence[Batch]
) -> Iterator[tuple[list[int], Params, Batch]]:
    """Positions of the tasks of each stack, the values that they own, and their rows."""
    if not tasks:
        return
    with torch.no_grad():  # the base predicts with the same values for every task
        base = next(
            (task._prepared(batch.x)[0] for task, batch in zip(tasks, rows, strict=True) if not task.own), {}
        )
    model = tasks[0].model
    axes = open_axes(model.learner.own_like(model.meta))
    # what a task owns fills a stack as its support rows do
    episodes = [
        Episode(_blank(batch.x, length_of(task.own, axes)), batch)
        for task, batch in zip(tasks, rows, strict=True)
    ]
    for positions, part in _stacks(model, episodes):
        yield positions, stack_owned([tasks[position].own or base for position in positions]), part.query


def predict_tasks(
    model: Model, supports: Sequence[Batch], queries: Sequence[object], *, steps: int | None = None
) -> list[Any]:
    """Adapt to many tasks and predict for their query rows, keeping no adapted values.

    Arguments:
        model: the model.
        supports: support rows of each task; none of them for the base prediction.
        queries: query features of each task.
        steps: inner steps; as in training unless given.

    Returns:
        Predictions of each task, `(n, *out)`.

    Example:
        >>> from innerloop.algorithms import mixed
        >>> learner = mixed(1)
        >>> model = Model(learner, learner.init())
        >>> one, two = Batch(torch.zeros(2, 1), torch.ones(2, 1)), Batch(torch.zeros(0, 1), torch.ones(0, 1))
        >>> [part.shape[0] for part in predict_tasks(model, [one, two], [torch.ones(1, 1), torch.ones(3, 1)])]
        [1, 3]
    """
    predictions: list[object] = [None] * len(supports)
    episodes = [Episode(support, _blank(x)) for support, x in zip(supports, queries, strict=True)]
    for positions, part in _stacks(model, episodes):
        with torch.no_grad():
            own = model.learner.adapt(model.meta, part.support, steps=steps)
            stacked = model.learner.predict(model.meta, own, part.query.x)
        for row, position in enumerate(positions):
            predictions[position] = _rows_of(stacked, row, episodes[position].query.rows)
    return predictions


def _stacks(model: Model, episodes: Sequence[Episode]) -> Iterator[tuple[list[int], Episode]]:
    """Stacks of episodes of similar size, with the position of each; padded where that changes no result."""
    for positions in _groups(episodes):
        episode = model._like(stack([episodes[position] for position in positions]))
        for inside, part in without_padding(model.learner, episode, predicting=True):
            yield [positions[row] for row in inside], part


def _groups(episodes: Sequence[Episode]) -> Iterator[list[int]]:
    """Positions of episodes of similar size, so many as a stack may hold when it is filled up to the longest."""
    sizes = [[batch.rows for batch in episode] for episode in episodes]
    group: list[int] = []
    widest = [0, 0]
    for position in sorted(range(len(episodes)), key=sizes.__getitem__):
        wider = [max(pair) for pair in zip(widest, sizes[position], strict=True)]
        rows = (len(group) + 1) * sum(wider)
        full = (
            len(group) == _AT_ONCE
            or rows > ROWS_AT_ONCE
            or rows * _width(episodes[position]) > _VALUES_AT_ONCE
        )
        if group and full:
            yield group
            group, wider = [], sizes[position]
        group.append(position)
        widest = wider
    if group:
        yield group


def _width(episode: Episode) -> int:
    """Values of a row of features."""
    return sum(t.shape[1:].numel() for t in tensors(episode.query.x))


def _blank(x: object, rows: int | None = None) -> Batch:
    """Query rows whose targets are not known; or so many rows of nothing."""
    if rows is not None:
        x = map_tensors(lambda t: t.new_zeros(rows, *t.shape[1:]), x)
    first = next(tensors(x))
    return Batch(x, torch.zeros(len(first), device=first.device))


def _rows_of(stacked: object, task: int, count: int) -> object:
    """The predictions of one task of a stack, without those of padding."""
    return map_tensors(operator.itemgetter((task, slice(count))), stacked)
