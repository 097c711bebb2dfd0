r"""Conformal prediction: intervals and prediction sets for a new task that hold whatever the model and the noise.

A model is calibrated on tasks that training has not met, with a task as one unit: rows of a task are not independent,
tasks are. Each calibration task $k$ of $K$ has scores, the errors of its query rows, with the distribution $F_k$.
Draw one score of each task: of a new task's row, the chance that its score is at most the $r$-th smallest of them is
$r / (K + 1)$, exactly, for any model and any noise (Vovk, Gammerman & Shafer, 2005, *Algorithmic Learning in a Random
World*; one draw a task: Dunn, Wasserman & Ramdas, 2022, *Distribution-Free Prediction Sets for Two-Layer Hierarchical
Models*). A single draw leaves most rows unused, so its luck is averaged out over all draws, in closed form:

$$ q_\gamma = \bar F^{-1}\bigl(E\,\bar F(S_{(r)})\bigr), \qquad \bar F = \frac1K \sum_k F_k, \quad S_k \sim F_k,
   \quad r = \gamma (K + 1) $$

with the expectation interpolated where $r$ is no whole number. With one row a task this is the exact procedure. With
more, coverage is $\gamma$ up to terms that vanish faster than $1 / K$, and the thresholds are narrower and vary less
than those that hold in the worst case (weights $1 / ((K + 1) n_k)$ with the mass $1 / (K + 1)$ at infinity: Lee, Barber
& Willett, 2023, *Distribution-Free Inference with Hierarchical Data*), which cover up to $(K + 1) / K$ times what was
asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

__all__ = ["LEVELS", "Calibration", "conformal_thresholds", "needed_tasks", "require_level"]

Array = NDArray[np.float64]

# shares that thresholds are kept for
LEVELS: Array = np.arange(1, 200) / 200

# scores at which distributions are compared
_GRID = 1000
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Calibration:
    """What conformal intervals of a model need, by number of support rows; `calibrate` makes it.

    Arguments:
        thresholds: of each number of support rows, `(199, C)`: the scores of `C` targets that a row of a new task stays
            below with chances of 0.005, 0.01, ..., 0.995. A score is the absolute error of a standardised target, over
            the model's own predictive deviation where it has one; or, with `C` = 1, one minus the probability of the
            true class.
        support_losses: of each number of support rows, the mean loss of each calibration task on the support rows of
            one draw, after adaptation to them, sorted, `(K,)`.

    Example:
        >>> losses = np.arange(1.0, 20.0)
        >>> errors = conformal_thresholds([np.array([error]) for error in losses])  # of 19 tasks one each
        >>> calibration = Calibration({3: errors[:, None]}, {3: losses})
        >>> calibration.threshold(5, 0.9), calibration.threshold(5, 0.99)
        (array([18.]), None)
        >>> calibration.percentile(5, 18.5)
        94.73684210526316
    """

    thresholds: Mapping[int, Array]
    support_losses: Mapping[int, Array]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of support rows, ascending."""
        return tuple(sorted(self.thresholds))

    @property
    def n_tasks(self) -> int:
        """Calibration tasks, those of the number of support rows that has most."""
        return max((len(values) for values in self.support_losses.values()), default=0)

    def threshold(self, n_support: int, level: float) -> Array | None:
        """The threshold of each target, `(C,)`, for a task with so many support rows.

        It is that of the nearest number of support rows that is not larger and has enough calibration tasks.

        Arguments:
            n_support: support rows of the task.
            level: share of the rows of new tasks that the interval holds.

        Returns:
            The thresholds, of the next level in steps of half a percent; `None` where the calibration tasks are too
            few for it.

        Raises:
            UsageError: the level is no number between 0 and 1.
        """
        needed, place = needed_tasks(level), math.ceil(level * (len(LEVELS) + 1) - _ROUNDING) - 1
        for size in reversed(self.sizes):
            if size <= n_support and needed <= len(self.support_losses[size]) and place < len(LEVELS):
                return np.asarray(self.thresholds[size][place])
        return None

    def percentile(self, n_support: int, support_loss: float) -> float:
        """Share of the calibration tasks with a smaller support loss, in percent: near 100, the task is unlike them.

        They are compared at the nearest number of support rows that is not larger; NaN without a support row.
        """
        size = max((size for size in self.sizes if 0 < size <= n_support), default=None)
        if size is None or not n_support:
            return math.nan
        losses = self.support_losses[size]
        return 100.0 * float(np.searchsorted(losses, support_loss)) / len(losses)


def require_level(level: object) -> float:
    """Refuse what is no level of an interval.

    Raises:
        UsageError: it is no number between 0 and 1.

    Example:
        >>> require_level(0.9)
        0.9
        >>> require_level(90)
        Traceback (most recent call last):
        innerloop.errors.UsageError: interval=90: give a share between 0 and 1, such as 0.9
    """
    number = isinstance(level, float | int | np.floating) and not isinstance(level, bool)
    if not number or not 0 < level < 1:  # type: ignore[operator]  # mypy does not see that it is a number
        raise UsageError(f"interval={level!r}: give a share between 0 and 1, such as 0.9")
    return float(level)  # type: ignore[arg-type]


def needed_tasks(level: float) -> int:
    """The fewest calibration tasks with which an interval of a level has an end.

    Example:
        >>> needed_tasks(0.9), needed_tasks(0.95), needed_tasks(0.5)
        (9, 19, 1)
    """
    return math.ceil(require_level(level) / (1 - level) - _ROUNDING)


def conformal_thresholds(scores: Sequence[Array]) -> Array:
    """Thresholds that a row of a new task stays below with chances of 0.005, 0.01, ..., 0.995, `(199,)`.

    Arguments:
        scores: of each of `K` tasks, the scores of its rows; every task counts equally.

    Returns:
        Ascending thresholds; for chances above `K / (K + 1)`, which nothing is known of, the last one below. Of more
        than 1000 different scores they are taken from 1000 quantiles, rounded up.

    Raises:
        UsageError: a task has no score.

    Example:
        >>> nine = conformal_thresholds([np.array([float(error)]) for error in range(1, 10)])
        >>> nine[[159, 179]].tolist()  # of nine tasks one score each, 80 and 90 %
        [8.0, 9.0]
        >>> conformal_thresholds([np.arange(1.0, 101.0)] * 3)[
        ...     99
        ... ].item()  # tasks that are alike: about the median
        51.0
    """
    if not scores or any(not len(own) for own in scores):
        raise UsageError("a calibration task has no score: give each task one query row or more")
    grid, count = _grid(scores), len(scores)
    of_task = np.stack([np.searchsorted(np.sort(own), grid, side="right") / len(own) for own in scores])
    mean = of_task.mean(0)
    chance = np.diff(_order_statistics(of_task), prepend=0.0, axis=1)
    share = np.interp(LEVELS * (count + 1), np.arange(count + 1), [0.0, *(chance @ mean)])
    place = np.searchsorted(mean, share - _ROUNDING)
    return np.asarray(grid[np.minimum(place, len(grid) - 1)])


def _grid(scores: Sequence[Array]) -> Array:
    """All different scores, or quantiles of them with equal weight for every task; the largest is among them."""
    values = np.concatenate(scores)
    if len(different := np.unique(values)) <= _GRID:
        return different
    order = np.argsort(values)
    share = np.concatenate([np.full(len(own), 1 / len(own)) for own in scores])[order].cumsum() / len(scores)
    place = np.searchsorted(share, np.arange(1, _GRID + 1) / _GRID - _ROUNDING)
    return np.unique(values[order[np.minimum(place, len(values) - 1)]])


def _order_statistics(of_task: Array) -> Array:
    """Distribution of the `r`-th smallest of one score a task at each point: at least `r` scores are that small.

    How many are is a sum of independent indicators, whose distribution is built up task by task.

    Arguments:
        of_task: distribution of the scores of each task at some points, `(K, S)`.

    Returns:
        `(K, S)`, row `r - 1` that of the `r`-th smallest.
    """
    count = np.zeros((len(of_task) + 1, of_task.shape[1]))
    moved = np.empty_like(count)
    count[0] = 1
    for number, own in enumerate(of_task, 1):
        up = np.multiply(count[:number], own, out=moved[:number])
        count[:number] -= up
        count[1 : number + 1] += up
    return np.asarray(count[::-1].cumsum(0)[::-1][1:])
