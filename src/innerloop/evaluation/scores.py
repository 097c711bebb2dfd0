"""Scores of a model on held-out tasks: a value a task, means with confidence intervals, paired comparison."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from ..engine.threads import threads_for
from ..errors import DataError, UsageError
from ..inner.given_rows import warn_of_raw_tasks
from ..inner.learner import without_padding
from ..inner.model import Model, require_model
from ..inner.per_target import require_targets
from ..models.losses import known_targets, mean_known, require_fit
from ..models.network import Params, reference
from ..notebook import as_html
from ..outer.ranks import Shards
from ..tasks.episodes import Batch, Episode, select, to
from ..tasks.sources import EVALUATION_SEED, Source, SupportSize, Targets, require_source
from .calibrating import INTERVALS, interval_metrics
from .conformal import Calibration
from .intervals import Estimate, interval
from .metrics import COVERAGES, accuracy, auc, calibration_gaps, place_by_place, predictive

__all__ = [
    "ERRORS",
    "Evaluation",
    "ScoreRow",
    "evaluate",
    "over_folds",
    "paired_difference",
]

ERRORS = ("squared_error", "error_over_variance")  # positive, with a long tail
_SHARES = ("accuracy", "auc", "calibration_error", "interval_coverage_90", "set_coverage_90", *COVERAGES)
_GAPS = ("auc", *INTERVALS)  # metrics that a task, or a draw of it, may not have
_BOUNDS = dict.fromkeys(_SHARES, (0.0, 1.0)) | dict.fromkeys(ERRORS, (0.0, math.inf))


class ScoreRow(TypedDict):
    """One score of the `--json` schema: a metric after a number of inner steps, with its 95 % interval.

    `n_support` is a number, or text such as `1-8` for a range; rows a task, or a class for shots.
    """

    method: str
    split: str
    n_support: int | str
    inner_steps: int | None
    metric: str
    mean: float
    ci95: list[float]
    n_tasks: int
    headline: bool


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of one method on the tasks of a source.

    Arguments:
        ids: tasks.
        steps: numbers of inner steps that were scored; 0 is before adaptation.
        values: per metric an array `(tasks, len(steps))`: `loss`, and `accuracy` and `auc` (NaN for a task of one
            class), or `squared_error` (natural units, mean over targets) and `error_over_variance`, of learners with
            a predictive variance also `log_likelihood` (of a query row, in natural units), `coverage_90` and
            `coverage_95` (share of the query values inside their predictive interval); for classification also
            `calibration_gaps` `(tasks, len(steps), bins)`. With a calibration, after the last step,
            `interval_coverage_90` and `interval_width_90` (natural units, mean over targets) of conformal intervals,
            or `set_coverage_90` and `set_size_90` of prediction sets; NaN at other steps, and for a task that has
            none.
        targets: what the targets are.
        support: rows of a support set.
        query_variance: variance of the query targets over that of the meta-train targets (regression).

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(episodes=5)
        >>> learner = il.mixed(1)
        >>> evaluation = il.evaluate(il.Model(learner, learner.init()), tasks.test)
        >>> evaluation.metrics[:4], evaluation.steps, len(evaluation.ids)
        (('rmse', 'r2', 'error_over_variance', 'loss'), (0, 1), 5)
    """

    ids: tuple[str, ...]
    steps: tuple[int, ...]
    values: dict[str, np.ndarray]
    targets: Targets
    support: SupportSize
    query_variance: float = 1.0

    def metric(self, name: str, step: int = -1) -> Estimate:
        """Mean and 95 % interval over tasks of a metric at one of `steps`, by position (default: the last).

        `rmse` and `r2` are computed from the mean squared error and its interval, `auc` from the tasks with two
        classes or more, `calibration_error` from the gaps of all tasks together. What is undefined is NaN: the
        interval of a single task, `r2` of targets that do not vary.

        Raises:
            UsageError: the metric is unknown.
        """
        if name == "rmse":
            return Estimate(*map(math.sqrt, self.metric("squared_error", step)))
        if name == "r2":
            mean, low, high = self.metric("error_over_variance", step)
            if self.query_variance <= 0:
                return Estimate(math.nan, math.nan, math.nan)  # the targets do not vary
            return Estimate(*(1 - value / self.query_variance for value in (mean, high, low)))
        mean, low, high = interval(self.of_tasks(name, step), errors=name in ERRORS)
        # a bound of what can be at all loses no coverage
        least, most = _BOUNDS.get(name, (-math.inf, math.inf))
        return Estimate(mean, max(low, least), min(high, most))

    def of_tasks(self, name: str, step: int = -1) -> np.ndarray:
        """What a metric is the mean of: a value for each task that has one.

        The calibration error is not a mean over tasks; linearised, it is one of these.

        Raises:
            UsageError: the metric is unknown.
        """
        if name == "calibration_error" and "calibration_gaps" in self.values:
            gaps = self.values["calibration_gaps"][:, step]
            return np.asarray(gaps @ np.sign(gaps.mean(0)))
        if name not in self.values or name == "calibration_gaps":
            raise UsageError(f"metric {name!r} is unknown: there are {', '.join(self.metrics)}")
        values = self.values[name][:, step]
        return values[~np.isnan(values)] if name in _GAPS else values

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the headline first."""
        own = ("log_likelihood", *COVERAGES) if self.targets.kind == "regression" else ()
        own += tuple(name for name in INTERVALS if not np.isnan(self.values.get(name, np.nan)).all())
        further = tuple(name for name in own if name in self.values)
        if self.targets.kind == "regression":
            return ("rmse", "r2", "error_over_variance", "loss", *further)
        return ("accuracy", "auc", "calibration_error", "loss", *further)

    @property
    def worsened(self) -> str:
        """Why adaptation is no use here, in words; empty where predictions are no worse after it than before.

        Example:
            >>> import innerloop as il
            >>> learner = il.maml(il.models.mlp(1, [4], 1), loss="mse", inner_lr=9.0, inner_steps=3)
            >>> tasks = il.tasks.sinusoid(episodes=5)
            >>> print(il.evaluate(il.Model(learner, learner.init()), tasks.test).worsened[:49])
            adaptation makes predictions worse: error over va
        """
        name = "error_over_variance" if self.targets.kind == "regression" else "loss"
        before, after = (self.metric(name, step).mean for step in (0, -1))
        # worse than the mean of all targets would be, or than chance
        least = 1.0 if self.targets.kind == "regression" else math.log(max(self.targets.n_outputs, 2))
        if len(self.steps) < 2 or after <= max(2 * before, least):
            return ""
        return (
            f"adaptation makes predictions worse: {name.replace('_', ' ')} {before:.3g} before, {after:.3g} after "
            f"{self.steps[-1]} inner steps: the inner loop diverges on these tasks; lower the inner step size "
            "(--inner-lr), limit the inner gradients (--inner-clip 1), or take fewer inner steps"
        )

    def _repr_html_(self) -> str:
        """What notebooks show: a row for each number of inner steps, means with 95 % intervals over tasks."""
        rows = [
            [steps, *("{:.4g} [{:.4g}, {:.4g}]".format(*self.metric(name, place)) for name in self.metrics)]
            for place, steps in enumerate(self.steps)
        ]
        size = "n_shot" if self.support.per_class else "n_support"
        facts = {"kind": self.targets.kind, size: self.support}
        title = f"Evaluation: {len(self.ids)} tasks, means with 95 % intervals over them"
        return as_html(title, facts, [["inner steps", *self.metrics], *rows])

    def at(self, step: int) -> Evaluation:
        """The same evaluation stopped at one of `steps` (by position), as a method of its own."""
        values = {name: value[:, step : step + 1] for name, value in self.values.items()}
        return replace(self, steps=self.steps[step : step + 1], values=values)

    def scores(self, method: str, split: str = "test") -> list[ScoreRow]:
        """Rows of the `--json` schema: one a metric and number of inner steps."""
        rows = []
        support: int | str = str(self.support) if self.support.low < self.support.high else self.support.low
        for position, steps in enumerate(self.steps):
            for name in self.metrics:
                if name in INTERVALS and not len(self.of_tasks(name, position)):
                    continue
                mean, low, high = self.metric(name, position)
                row = ScoreRow(
                    method=method,
                    split=split,
                    n_support=support,
                    inner_steps=steps,
                    metric=name,
                    mean=mean,
                    ci95=[low, high],
                    n_tasks=len(self.ids),
                    headline=name == self.metrics[0] and position == len(self.steps) - 1,
                )
                rows.append(row)
        return rows


def evaluate(
    model: Model,
    source: Source,
    *,
    seed: int = EVALUATION_SEED,
    steps: int | None = None,
    path: bool = True,
    start: bool = True,
    calibration: Calibration | None = None,
    shards: Shards | None = None,
) -> Evaluation:
    """Score a model on the fixed episodes of a source, before adaptation and after every inner step.

    Every task counts equally: scores are averaged over its support draws first. The model is not changed.

    Arguments:
        model: what to score.
        source: held-out tasks.
        seed: of the episodes; equal seeds give equal episodes for every model.
        steps: inner steps to go to; as in training unless given.
        path: score every inner step on the way; otherwise only the state before adaptation and the last one.
        start: without `path`, score the state before adaptation too.
        calibration: what `il.calibrate` made of the same model, on other tasks: then it is measured what its 90 %
            intervals hold, unless `steps` are given.
        shards: how the tasks of each stack are shared among the processes of `torchrun`, which all call this; not
            shared unless given.

    Returns:
        The evaluation.

    Raises:
        DataError: the source has no task, or the predictions do not fit the targets.
        UsageError: this is no model, or no source of tasks.

    Example:
        >>> import innerloop as il
        >>> tasks = il.tasks.sinusoid(n_support=5, episodes=10)
        >>> learner = il.maml(il.models.mlp(1, [8], 1), loss="mse", inner_steps=2)
        >>> il.evaluate(il.Model(learner, learner.init()), tasks.test).steps
        (0, 1, 2)
    """
    require_model(model)
    require_source(source, "test")
    require_targets(model.learner, source)
    if steps is not None and steps < 0:
        raise UsageError(f"steps={steps}: give 0 or more")
    like = reference(model.meta)
    if steps is not None:
        calibration = None
    # metric -> task -> sum and number of the draws that have a value
    sums: defaultdict[str, defaultdict[str, np.ndarray]] = defaultdict(
        lambda: defaultdict(lambda: np.zeros(()))
    )
    counts: defaultdict[str, defaultdict[str, np.ndarray]] = defaultdict(
        lambda: defaultdict(lambda: np.zeros(()))
    )
    spread, taken = _Spread(), list[int]()
    for ids, raw in source.fixed(seed):
        if model.standardised and not sums:
            warn_of_raw_tasks(source, raw.query)
        episode = to(raw, like.device, like.dtype)
        spread.add(raw.query, source.targets)
        numbered = _Numbers(steps, every=path, start=start)
        measured = partial(_measured, model, targets=source.targets, wanted=numbered, calibration=calibration)
        for task, row, numbers in _shared(measured, ids, episode, shards or Shards(1)):
            taken = numbers
            for name, scored in row.items():
                # a draw whose query has one class has no area under the curve; other draws of the task may have
                defined = ~np.isnan(scored) if name in _GAPS else np.ones(scored.shape)
                sums[name][task] = sums[name][task] + np.where(defined, scored, 0.0)
                counts[name][task] = counts[name][task] + defined
    if not sums:
        raise DataError("there is no task to evaluate on: this split is empty")
    with np.errstate(invalid="ignore"):
        values = {
            name: np.stack([total[task] / counts[name][task] for task in total])
            for name, total in sums.items()
        }
    return Evaluation(
        tuple(sums["loss"]), tuple(taken), values, source.targets, source.support, spread.relative
    )


_Row = tuple[str, dict[str, np.ndarray], list[int]]


def _shared(
    measured: Callable[[Sequence[str], Episode], Iterator[_Row]],
    ids: Sequence[str],
    episode: Episode,
    shards: Shards,
) -> Iterator[_Row]:
    """What is measured of the tasks of a stack, each by one rank."""
    parts = shards.parts(len(ids))
    own = {
        number: list(measured(ids[parts[number]], select(episode, parts[number])))
        for number in shards.numbers
        if parts[number].stop > parts[number].start
    }
    every = {number: rows for found in shards.ranks.every(own) for number, rows in found.items()}
    for number in sorted(every):
        yield from every[number]


def _measured(
    model: Model,
    ids: Sequence[str],
    episode: Episode,
    *,
    targets: Targets,
    wanted: _Numbers,
    calibration: Calibration | None,
) -> Iterator[_Row]:
    """Each task of a stack with its metrics by number of inner steps, and these numbers."""
    for positions, part in without_padding(model.learner, episode, predicting=True):
        scores: dict[int, dict[str, np.ndarray]] = {}
        with threads_for(model.meta):
            for number, adapted in _path(model, part, wanted):
                scores[number] = _measure(model, adapted, part.query, targets)
            if calibration is not None:
                found = interval_metrics(model, adapted, part, targets, calibration)
                blank = {name: np.full(len(values), np.nan) for name, values in found.items()}
                for earlier in scores:
                    scores[earlier] |= found if earlier == number else blank
        for row, position in enumerate(positions):
            names = next(iter(scores.values()))
            yield (
                ids[position],
                {n: np.array([s[n][row] for s in scores.values()]) for n in names},
                list(scores),
            )


class _Numbers(NamedTuple):
    """Which numbers of inner steps are scored: `steps` is the last one (as in training unless given)."""

    steps: int | None
    every: bool = True
    start: bool = True


def _path(model: Model, episode: Episode, wanted: _Numbers) -> Iterator[tuple[int, Params]]:
    """Number of inner steps and what they adapt to: all, the first and the last, or the last."""
    with torch.no_grad():
        path = enumerate(model.learner.path(model.meta, episode.support, steps=wanted.steps))
        if wanted.start and not wanted.every:
            yield next(path)
        yield from path if wanted.every else deque(path, maxlen=1)


def _measure(model: Model, adapted: Params, query: Batch, targets: Targets) -> dict[str, np.ndarray]:
    """Metrics of each task of a stack, `(T,)`, or several values a task."""
    scores: dict[str, np.ndarray] = {}
    with torch.no_grad():
        if targets.kind == "structured":
            return {"loss": model.learner.loss(model.meta, adapted, query).double().cpu().numpy()}
        prediction, loss = model.learner.scored(model.meta, adapted, query)
        metrics = {"loss": loss}
        require_fit(prediction, query.y)
        if targets.kind == "classification":
            prediction, query = place_by_place(prediction, query)
            metrics["accuracy"] = accuracy(prediction, query)
            scores["auc"] = auc(prediction, query)
            scores["calibration_gaps"] = calibration_gaps(prediction, query)
        else:
            y, known = known_targets(query.y)
            squares = (prediction - y).double().square()
            scale = torch.tensor(targets.scale, dtype=torch.float64, device=squares.device)
            variance = torch.tensor(targets.variance, dtype=torch.float64, device=squares.device)
            metrics["squared_error"] = mean_known(squares * scale**2, known, query.weight)
            metrics["error_over_variance"] = mean_known(squares / variance, known, query.weight)
            spread = model.learner.variance(model.meta, adapted, query.x)
            if spread is not None:
                metrics |= predictive(squares, spread.double(), scale, query, known)
    return scores | {name: value.double().cpu().numpy() for name, value in metrics.items()}


class _Spread:
    """Variance of query targets with equal weight for every task, relative to that of meta-train."""

    def __init__(self) -> None:
        self.first: list[Tensor] = []
        self.second: list[Tensor] = []

    def add(self, query: Batch, targets: Targets) -> None:
        if targets.kind != "regression":
            return
        y, known = known_targets(query.y.double())
        y = y / torch.tensor(targets.variance, dtype=torch.float64, device=y.device).sqrt()
        counted = known if query.weight is None else known & (query.weight > 0)[..., None]
        # of a target that no row of a task knows, NaN
        count = counted.sum(1).T
        self.first.append((y * counted).sum(1).T / count)
        self.second.append((y.square() * counted).sum(1).T / count)

    @property
    def relative(self) -> float:
        if not self.first:
            return 1.0
        first, second = torch.cat(self.first, 1), torch.cat(self.second, 1)
        return (second.nanmean(1) - first.nanmean(1).square()).mean().item()


def over_folds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation out of those of several folds: every task counts once.

    The folds share most of their meta-train tasks, so the interval speaks of tasks, not of training anew.

    Arguments:
        evaluations: of one method, each on the meta-test tasks of its fold.

    Raises:
        DataError: there is none, a task is in two of them, or the numbers of inner steps differ.

    Example:
        >>> targets, support = Targets("classification", 2), SupportSize(1, 1)
        >>> a, b = (
        ...     Evaluation((name,), (0,), {"accuracy": np.array([[v]])}, targets, support)
        ...     for name, v in (("x", 0.5), ("y", 1.0))
        ... )
        >>> over_folds([a, b]).metric("accuracy")[0]
        0.75
    """
    if not evaluations:
        raise DataError("there is no evaluation to put together: give one of each fold")
    ids = tuple(name for evaluation in evaluations for name in evaluation.ids)
    twice = next((name for number, name in enumerate(ids) if name in ids[:number]), None)
    if twice is not None:
        raise DataError(f"task {twice!r} is in two evaluations: folds share no task")
    first = evaluations[0]
    if any(evaluation.steps != first.steps for evaluation in evaluations):
        raise DataError("the evaluations have different inner steps: score all folds with the same settings")
    values = {name: np.concatenate([e.values[name] for e in evaluations]) for name in first.values}
    variances, sizes = [e.query_variance for e in evaluations], [len(e.ids) for e in evaluations]
    return replace(first, ids=ids, values=values, query_variance=float(np.average(variances, weights=sizes)))


def paired_difference(ours: Evaluation, theirs: Evaluation, metric: str) -> Estimate:
    """Mean and 95 % interval over tasks of the difference of a metric after adaptation, ours minus theirs.

    Arguments:
        ours: one evaluation.
        theirs: another one on the same tasks.
        metric: a name in `Evaluation.values`.

    Raises:
        DataError: the tasks differ.

    Example:
        >>> targets, support = Targets("regression", 1), SupportSize(5, 5)
        >>> a, b = (
        ...     Evaluation(("x", "y"), (0,), {"loss": np.array([[v], [v]])}, targets, support) for v in (1, 3)
        ... )
        >>> paired_difference(a, b, "loss")
        Estimate(mean=-2.0, low=-2.0, high=-2.0)
    """
    if ours.ids != theirs.ids:
        raise DataError(
            "two evaluations on different tasks cannot be paired: evaluate both on the same source"
        )
    return interval(ours.values[metric][:, -1] - theirs.values[metric][:, -1])
