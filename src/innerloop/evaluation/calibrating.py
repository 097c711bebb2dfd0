"""Calibrating a model on held-out tasks for conformal intervals, and how often and how wide they are on others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine.threads import threads_for
from ..errors import DataError
from ..inner.learner import without_padding
from ..inner.model import Model, require_model
from ..inner.per_target import require_targets
from ..models.losses import known_targets, mean_known, require_fit
from ..models.network import Params, reference
from ..tasks.episodes import Batch, Episode, to
from ..tasks.sources import EVALUATION_SEED, RowSource, Source, SupportSize, Targets, require_source
from .conformal import Array, Calibration, conformal_thresholds, needed_tasks

__all__ = ["INTERVALS", "LEVEL", "MOST_TASKS", "calibrate", "in_set", "interval_metrics", "support_sizes"]

# what evaluations and pages report
LEVEL = 0.9
INTERVALS = ("interval_coverage_90", "interval_width_90", "set_coverage_90", "set_size_90")
# calibration tasks at most: with so many, coverage varies by less than 2 % from one calibration to another
MOST_TASKS = 300
# a number of support rows that fewer tasks reach is left out, as 90 % intervals need so many
_FEW = needed_tasks(LEVEL)
# numbers of support rows go to so many times that of training
_BEYOND = 4
# scores that are not finite count as this one, for a model directory holds finite numbers
_LARGEST = 1e300


def calibrate(model: Model, source: Source, *, seed: int = EVALUATION_SEED) -> Calibration:
    """Calibrate a model on held-out tasks, so that it can give conformal intervals or prediction sets for new ones.

    Tasks of a table are adapted to with 0, 1, 2, 3, 5, 8, ... support rows, up to four times as many as in training,
    on fixed draws as in evaluation; a task takes part where it has so many rows and a query row left, and a number of
    rows where 9 tasks do, or all. Of more than 300 tasks, 300 take part. Where rows know some of several targets, tasks
    take part that have a query row for each of them.

    Arguments:
        model: a trained model.
        source: tasks that training has not met, and that are none to be scored: `tasks.valid`.
        seed: of the draws.

    Returns:
        The calibration: `il.save(..., calibration=)` stores it, `il.evaluate(..., calibration=)` measures what its
        intervals hold.

    Raises:
        DataError: the source has no task, or predictions do not fit the targets.
        UsageError: this is no model, or no source of tasks.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=50)
        >>> learner = il.mixed(1)
        >>> calibration = calibrate(il.Model(learner, learner.init()), tasks.valid)
        >>> calibration.sizes, calibration.n_tasks, calibration.threshold(5, 0.9).shape
        ((5,), 50, (1,))
    """
    require_model(model)
    require_source(source, "valid")
    require_targets(model.learner, source)
    scores: defaultdict[int, defaultdict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
    losses: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for wanted, part in _by_support(source):
        if wanted == 0 and not _predicts_unadapted(model, part, seed):
            continue
        for scored in _scored(model, part, seed):
            if wanted in (None, scored.n_support):
                scores[scored.n_support][scored.task].append(scored.scores)
                # a new task has one draw, whose loss varies more than a mean of several
                losses[scored.n_support].setdefault(scored.task, scored.support_loss)
    if not scores:
        raise DataError("there is no task to calibrate on: this split is empty")
    # every threshold comes from the same tasks, whose number says for which levels they are enough
    of_all, of_support = _of_all_targets(scores, losses)
    thresholds = {
        size: np.stack([conformal_thresholds(own) for own in _by_target(list(tasks.values()))], axis=1)
        for size, tasks in sorted(of_all.items())
    }
    return Calibration(thresholds, {size: np.sort([*own.values()]) for size, own in of_support.items()})


def support_sizes(most: int) -> tuple[int, ...]:
    """Numbers of support rows to calibrate: 0, Fibonacci's numbers up to four times `most`, and `most`.

    Example:
        >>> support_sizes(10)
        (0, 1, 2, 3, 5, 8, 10, 13, 21, 34)
    """
    sizes = [0, 1, 2]
    while sizes[-1] < _BEYOND * most:
        sizes.append(sizes[-1] + sizes[-2])
    return tuple(sorted({*(size for size in sizes if size <= _BEYOND * most), most}))


def interval_metrics(
    model: Model, adapted: Params, episode: Episode, targets: Targets, calibration: Calibration
) -> dict[str, Array]:
    """What the 90 % intervals of adapted tasks hold of their query rows, and how wide they are, `(T,)` each.

    Arguments:
        model: the model.
        adapted: what the tasks of the stack were adapted to.
        episode: the stack.
        targets: what the targets are.
        calibration: of the model.

    Returns:
        `interval_coverage_90` and `interval_width_90` (in natural units, a mean over targets), or `set_coverage_90`
        and `set_size_90` (classes in a set); NaN for a task with too few calibration tasks.
    """
    query, learner = episode.query, model.learner
    found = [calibration.threshold(count, LEVEL) for count in _support_rows(episode.support)]
    width = targets.n_outputs if targets.kind == "regression" else 1
    blank = np.full(width, np.nan)
    limits = torch.from_numpy(np.stack([blank if own is None else own for own in found]))
    limits = limits.to(query.y.device).unsqueeze(1)
    with torch.no_grad():
        prediction = learner.predict(model.meta, adapted, query.x)
        if targets.kind == "classification":
            member = in_set(prediction.double().softmax(-1), limits)
            held = member.gather(-1, query.y.unsqueeze(-1)).double()
            known, size = torch.ones_like(held, dtype=torch.bool), member.sum(-1, keepdim=True).double()
        else:
            held = (_scores(model, adapted, query, targets, prediction) <= limits).double()
            known = known_targets(query.y)[1]
            scale = torch.tensor(targets.scale, dtype=torch.float64, device=query.y.device)
            size = 2 * limits * _deviation(model, adapted, query, prediction) * scale
    undefined = limits.isnan().any(-1).any(-1)
    names = INTERVALS[:2] if targets.kind == "regression" else INTERVALS[2:]
    counted = (
        known,
        torch.ones_like(known),
    )  # of what is not known it is not seen whether an interval holds it
    means = [
        mean_known(rows, own, query.weight).masked_fill(undefined, torch.nan)
        for rows, own in zip((held, size), counted, strict=True)
    ]
    return {name: mean.cpu().numpy() for name, mean in zip(names, means, strict=True)}


def in_set(chance: Tensor, limit: Tensor) -> Tensor:
    """Which classes belong to the prediction set: those likely enough, and the most likely one.

    The least sets on average at a given coverage are those of all classes whose probability exceeds a threshold
    (Sadinle, Lei & Wasserman, 2019, *Least Ambiguous Set-Valued Classifiers with Bounded Error Levels*).

    Arguments:
        chance: probabilities `(..., n, C)`.
        limit: largest score of a class in the set, one minus its probability, `(..., n or 1, 1)`.

    Example:
        >>> in_set(torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]), torch.tensor([[0.7]])).tolist()
        [[True, False, False], [True, True, False]]
    """
    return (1 - chance <= limit) | (chance == chance.amax(-1, keepdim=True))


class _Scored(NamedTuple):
    """A task on one draw of its support: scores of its query rows `(n, C)`, and its support loss.

    The score of a target that a row does not know is NaN.
    """

    task: str
    n_support: int
    scores: Array
    support_loss: float


def _scored(model: Model, source: Source, seed: int) -> Iterator[_Scored]:
    """The tasks of a source on its fixed draws; of one without end the first ones."""
    like, names = reference(model.meta), set[str]()
    for ids, raw in source.fixed(seed):
        names |= set(ids)
        episode = to(raw, like.device, like.dtype)
        for positions, part in without_padding(model.learner, episode, predicting=True):
            with torch.no_grad(), threads_for(model.meta):
                adapted = model.learner.adapt(model.meta, part.support)
                prediction = model.learner.predict(model.meta, adapted, part.query.x)
                scores = _scores(model, adapted, part.query, source.targets, prediction)
                losses = model.learner.loss(model.meta, adapted, part.support)
            every, loss = (_finite(values) for values in (scores, losses))
            counts, weight = _support_rows(part.support), part.query.weight
            real = np.ones(every.shape[:2], dtype=bool) if weight is None else weight.cpu().numpy() > 0
            if source.targets.partial:
                every = np.where(known_targets(part.query.y)[1].cpu().numpy(), every, np.nan)
            for row, position in enumerate(positions):
                yield _Scored(ids[position], counts[row], every[row][real[row]], float(loss[row]))
        if len(names) >= MOST_TASKS and source.n_tasks is None:
            return


def _finite(values: Tensor) -> Array:
    found = np.nan_to_num(values.double().cpu().numpy(), nan=_LARGEST)
    return np.asarray(np.clip(found, -_LARGEST, _LARGEST))


def _scores(model: Model, adapted: Params, query: Batch, targets: Targets, prediction: Tensor) -> Tensor:
    """How wrong each query row is, `(T, n, C)`, or `(T, n, 1)` for classes; see `Calibration`."""
    require_fit(prediction, query.y)
    if targets.kind == "classification":
        return 1 - prediction.double().softmax(-1).gather(-1, query.y.unsqueeze(-1))
    error: Tensor = (prediction - known_targets(query.y)[0]).double().abs()
    return error / _deviation(model, adapted, query, prediction)


def _deviation(model: Model, adapted: Params, query: Batch, prediction: Tensor) -> Tensor:
    """The model's own predictive deviation, `(T, n, C)`; 1 where it says nothing of it."""
    variance = model.learner.variance(model.meta, adapted, query.x)
    return torch.ones_like(prediction).double() if variance is None else variance.double().sqrt()


def _support_rows(support: Batch) -> list[int]:
    """Support rows of each task of a stack."""
    if support.weight is None:
        return [int(support.y.shape[1])] * len(support.y)
    return [int(count) for count in (support.weight > 0).sum(1).tolist()]


def _by_target(tasks: list[list[Array]]) -> Iterator[list[Array]]:
    """For each target the known scores of every task on all its draws."""
    whole = [np.concatenate(draws) for draws in tasks]
    for target in range(whole[0].shape[1]):
        yield [own[~np.isnan(own[:, target]), target] for own in whole]


def _of_all_targets(
    scores: Mapping[int, Mapping[str, list[Array]]], losses: Mapping[int, Mapping[str, float]]
) -> tuple[dict[int, dict[str, list[Array]]], dict[int, dict[str, float]]]:
    """The tasks that have a known score of every target, by number of support rows."""
    whole = {
        size: {task: draws for task, draws in tasks.items() if _knows_all(draws)}
        for size, tasks in scores.items()
    }
    whole = {size: tasks for size, tasks in whole.items() if tasks}
    return whole, {size: {task: losses[size][task] for task in tasks} for size, tasks in whole.items()}


def _knows_all(draws: list[Array]) -> bool:
    """Whether a task has a known score of every target."""
    return bool((~np.isnan(np.concatenate(draws))).any(0).all())


def _by_support(source: Source) -> Iterator[tuple[int | None, Source]]:
    """Sources that draw a number of support rows each; of what is no table, the source as it is."""
    if not isinstance(source, RowSource):
        yield None, source
        return
    size, part = source.support, _some_tasks(source)
    most = size.high
    if size.per_class:
        # rows of as many classes as a task has at most
        labels = np.split(part.y.numpy(), part.starts[1:-1])
        most *= max((len(np.unique(own)) for own in labels), default=1)
    reach = np.diff(part.starts) - 1
    for count in support_sizes(most):
        # a task of n rows adapts on n - 1 at most
        if (reach >= count).sum() >= min(_FEW, len(reach)):
            yield count, replace(part, support=SupportSize(count, count, False, size.choice))


def _some_tasks(source: RowSource) -> RowSource:
    """All tasks, or of many a random part, always the same one."""
    if source.n_tasks <= MOST_TASKS:
        return source
    chosen = np.sort(np.random.default_rng(0).choice(source.n_tasks, MOST_TASKS, replace=False))
    rows = np.concatenate([np.arange(source.starts[task], source.starts[task + 1]) for task in chosen])
    starts = np.concatenate([[0], np.diff(source.starts)[chosen].cumsum()])
    blocks = source.blocks
    if blocks is not None:
        blocks = np.append(np.flatnonzero(np.isin(rows, blocks[:-1])), len(rows))
    ids = tuple(source.ids[task] for task in chosen)
    return replace(source, x=source.x[rows], y=source.y[rows], starts=starts, ids=ids, blocks=blocks)


def _predicts_unadapted(model: Model, source: Source, seed: int) -> bool:
    """Whether the model predicts without a support row; one that normalises with the support does not."""
    try:
        next(_scored(model, source, seed))
    except DataError:
        return False
    return True
