"""Confidence intervals over tasks, paired differences with p values, and multiple-comparison correction.

Tasks are the units: rows of one task are not independent, tasks are. Where tasks come in clusters (clinics of
patients), clusters are the units. Every interval of the package is computed here:

| interval | function |
|---|---|
| Student's t, log interval for errors | `interval`, and with clusters `mean_interval` |
| bias-corrected and accelerated (BCa) bootstrap | `mean_interval(how="bca")` |
| bootstrap over tasks of any statistic | `bootstrap_interval` |
| paired difference and effect size, over tasks and seeds | `paired`, `two_way` |
| multiple-comparison correction | `holm` |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "INTERVALS",
    "Array",
    "Estimate",
    "Paired",
    "around",
    "bootstrap_interval",
    "holm",
    "interval",
    "mean_interval",
    "paired",
    "two_way",
]

Array = NDArray[np.float64]

INTERVALS = ("t", "bca")
DRAWS = 2000  # of a bootstrap


class Estimate(NamedTuple):
    """A value with its 95 % interval; the ends are NaN where there is none.

    Example:
        >>> Estimate(0.5, 0.4, 0.6).low
        0.4
    """

    mean: float
    low: float
    high: float


class Paired(NamedTuple):
    """A paired difference, its relative gain, and the p value of no difference."""

    difference: Estimate
    gain: Estimate
    p: float


def interval(values: np.ndarray, *, errors: bool = False) -> Estimate:
    r"""Mean and 95 % interval over tasks.

    Student's, $m \pm t s / \sqrt T$; of errors Student's for the logarithm of their mean,
    $m \exp(\pm t s / (m \sqrt T))$, which fits their long tail better and never falls below 0.

    Arguments:
        values: one a task.
        errors: they are positive and their tail is long, as that of squared errors is.

    Example:
        >>> interval(np.array([1.0, 2.0, 3.0]))[0]
        2.0
    """
    count = len(values)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(np.mean(values)) if count else math.nan
    if count < 2 or not np.isfinite(values).all():
        return Estimate(mean, math.nan, math.nan)
    half = float(_t(count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Estimate(mean, *around(mean, half, count, errors=errors))


def around(mean: float, half: float, count: int, *, errors: bool) -> tuple[float, float]:
    """The ends of an interval, by its half width on the scale of the values; see `interval`.

    Arguments:
        mean: of the values.
        half: Student's factor times the standard error.
        count: of values; for fewer than 5 errors the logarithm's interval is too wide to be of use.
        errors: see `interval`.

    Example:
        >>> around(1.0, 2.0, 9, errors=False), around(1.0, math.log(2), 9, errors=True)
        ((-1.0, 3.0), (0.5, 2.0))
    """
    if errors and count >= 5 and mean > 0:
        factor = math.exp(half / mean)
        return mean / factor, mean * factor
    return mean - half, mean + half


def mean_interval(
    values: Array, *, clusters: Sequence[str] = (), how: str = "t", errors: bool = False
) -> Estimate:
    """Mean over tasks with its 95 % interval.

    Arguments:
        values: one a task, `(T,)`.
        clusters: the cluster of each task; then clusters are what could have been others.
        how: `t` (Student's interval) or `bca` (bias-corrected and accelerated bootstrap; Efron, 1987, *Better
            Bootstrap Confidence Intervals*).
        errors: see `interval`; of Student's interval only.

    Returns:
        The mean; its ends are NaN for fewer than two tasks or clusters, or values that are not finite.

    Example:
        >>> mean_interval(np.array([1.0, 2.0, 3.0])).mean
        2.0
    """
    values = np.asarray(values, dtype=np.float64)
    units = _units(values, clusters)
    with np.errstate(invalid="ignore"):
        mean = float(values.mean()) if len(values) else math.nan
    if len(units) < 2 or not np.isfinite(values).all():
        return Estimate(mean, math.nan, math.nan)
    if how == "bca" and np.ptp(values) > 0:
        return Estimate(mean, *_bca(units))
    count = len(units)
    spread = units[:, 0] - mean * units[:, 1]
    error = math.sqrt(float(np.square(spread).sum()) * count / (count - 1)) / len(values)
    return Estimate(mean, *around(mean, _t(count - 1) * error, count, errors=errors))


def paired(
    ours: Array, theirs: Array, *, lower_is_better: bool, clusters: Sequence[str] = (), seed: int = 0
) -> Paired:
    """The difference of two methods on the same tasks, with a two-way bootstrap over tasks and seeds.

    Arguments:
        ours: headline metric `(T, seeds)`.
        theirs: that of the other method.
        lower_is_better: the metric is an error; otherwise one minus it is.
        clusters: see `mean_interval`.
        seed: of the bootstrap.

    Returns:
        Ours minus theirs; the share of their error that ours saves, its interval from the linearised ratio;
        and the p value.

    Example:
        >>> ours, theirs = np.full((8, 2), 0.5), np.ones((8, 2))
        >>> paired(ours, theirs, lower_is_better=True).gain.mean
        0.5
    """
    difference, p = two_way(ours - theirs, clusters=clusters, seed=seed)
    saved, whole = (ours, theirs) if lower_is_better else (1 - ours, 1 - theirs)
    error = float(whole.mean())
    if not error > 0:
        return Paired(difference, Estimate(math.nan, math.nan, math.nan), p)
    ratio = float(saved.mean()) / error
    spread, _ = two_way((ratio * whole - saved) / error, clusters=clusters, seed=seed)
    gain = 1 - ratio
    return Paired(difference, Estimate(gain, gain + spread.low, gain + spread.high), p)


def two_way(values: Array, *, clusters: Sequence[str] = (), seed: int = 0) -> tuple[Estimate, float]:
    r"""Mean of `(T, seeds)` values with a 95 % interval, and the p value of a mean of 0.

    $d_{ts} = \mu + a_t + b_s + e_{ts}$: both the tasks and the seeds could have been others. Tasks (or clusters)
    are drawn with replacement; the variance of seeds is that of their means, which also holds a little of
    $e$, as two or three of them are too few to draw from. The interval is Student's on the standard error of both,
    with Satterthwaite's degrees of freedom: where seeds differ more than tasks it is as wide as so few seeds
    deserve.

    Arguments:
        values: `(T, seeds)`.
        clusters: see `mean_interval`.
        seed: of the draws.

    Example:
        >>> estimate, p = two_way(np.array([[1.0, 1.2], [0.8, 1.1], [1.3, 0.9]]))
        >>> bool(estimate.low < 1 < estimate.high), p < 0.05
        (True, True)
    """
    values = np.asarray(values, dtype=np.float64)
    by_task = values.mean(1)
    mean, units = float(by_task.mean()), _units(by_task, clusters)
    count, seeds = len(units), values.shape[1]
    if count < 2 or not np.isfinite(values).all():
        return Estimate(mean, math.nan, math.nan), math.nan
    rng = np.random.default_rng(seed)
    taken = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) @ units
    # a draw of n units varies less than n new ones would, by (n - 1) / n
    of_tasks = float(np.var(taken[:, 0] / taken[:, 1])) * count / (count - 1)
    of_seeds = float(np.var(values.mean(0), ddof=1)) / seeds if seeds > 1 else 0.0
    error = math.sqrt(of_tasks + of_seeds)
    if error == 0:
        return Estimate(mean, mean, mean), 1.0 if mean == 0 else 0.0
    freedom = (of_tasks + of_seeds) ** 2 / (
        of_tasks**2 / (count - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    )
    half = _t(freedom) * error
    return Estimate(mean, mean - half, mean + half), _p_value(mean / error, freedom)


def bootstrap_interval(values: Array, statistic: Callable[[Array], float]) -> tuple[float, float]:
    """Ends of the 95 % percentile bootstrap interval over tasks of a statistic of means.

    Arguments:
        values: several values a task, `(points, T)`; tasks are drawn with replacement.
        statistic: of the means over tasks `(points,)`; it may be infinite.

    Example:
        >>> low, high = bootstrap_interval(np.array([[1.0, 2.0, 3.0]]), lambda means: float(means[0]))
        >>> 1 <= low < 2 < high <= 3
        True
    """
    tasks = values.shape[1]
    weight = np.random.default_rng(0).multinomial(tasks, np.full(tasks, 1 / tasks), size=DRAWS) / tasks
    drawn = np.array([statistic(means) for means in weight @ values.T])
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for there being many of them (Holm, 1979, *A Simple Sequentially Rejective Procedure*).

    NaN stays NaN and counts as no test.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in corrected]


def _units(values: Array, clusters: Sequence[str]) -> Array:
    """Sum and number of tasks of each unit `(units, 2)`: tasks, or clusters of them."""
    if not len(clusters):
        return np.stack([values, np.ones_like(values)], 1)
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.stack([np.bincount(codes, values), np.bincount(codes).astype(np.float64)], 1)


def _bca(units: Array) -> tuple[float, float]:
    from scipy.stats import bootstrap

    def ratio(index: NDArray[np.int64], axis: int = -1) -> Array:
        return np.asarray(units[index, 0].sum(axis) / units[index, 1].sum(axis))

    index = (np.arange(len(units)),)
    low, high = bootstrap(
        index, ratio, method="BCa", n_resamples=DRAWS, rng=0, vectorized=True
    ).confidence_interval
    return float(low), float(high)


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _p_value(statistic: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(statistic)))
