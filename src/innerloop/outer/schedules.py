"""Schedules: the step size of the outer loop as a function of the number of the update.

Any function from the number of the update, counted from 0, to a step size is a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import UsageError

__all__ = ["SCHEDULES", "Schedule", "constant", "cosine", "linear", "one_cycle"]

Schedule = Callable[[int], float]


def constant(rate: float, steps: int = 1, *, warmup: int = 0) -> Schedule:
    """The same step size throughout, after a linear warm-up.

    Arguments:
        rate: the step size.
        steps: updates in all, as the other schedules take them.
        warmup: updates until the full step size.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> [constant(1.0, warmup=2)(step) for step in range(4)]
        [0.5, 1.0, 1.0, 1.0]
    """
    return _warmed(lambda step: rate, rate, steps, warmup)


def cosine(rate: float, steps: int, *, warmup: int = 0) -> Schedule:
    r"""Half a cosine from the step size to zero, $\frac\eta2 (1 + \cos(\pi k / K))$, after a linear warm-up.

    Loshchilov & Hutter, 2017, *SGDR: Stochastic Gradient Descent with Warm Restarts*.

    Arguments:
        rate: the largest step size.
        steps: updates in all.
        warmup: updates until the full step size.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> [round(cosine(1.0, 4)(step), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    left = max(steps - warmup, 1)
    return _warmed(lambda step: rate * 0.5 * (1 + math.cos(math.pi * step / left)), rate, steps, warmup)


def linear(rate: float, steps: int, *, warmup: int = 0) -> Schedule:
    """A straight line from the step size to zero, after a linear warm-up.

    Arguments:
        rate: the largest step size.
        steps: updates in all.
        warmup: updates until the full step size.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> [linear(1.0, 4)(step) for step in range(4)]
        [1.0, 0.75, 0.5, 0.25]
    """
    left = max(steps - warmup, 1)
    return _warmed(lambda step: rate * max(1 - step / left, 0.0), rate, steps, warmup)


def one_cycle(rate: float, steps: int, *, rising: float = 0.3) -> Schedule:
    """Half a cosine up from a 25th of the step size, and one down to a 10,000th of where it began.

    Smith & Topin, 2019, *Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates*.

    Arguments:
        rate: the largest step size.
        steps: updates in all.
        rising: share of the updates that rise.

    Raises:
        UsageError: a number has no meaning.

    Example:
        >>> [round(one_cycle(1.0, 10)(step), 2) for step in (0, 2, 6, 9)]
        [0.04, 1.0, 0.39, 0.0]
    """
    if not 0 < rising < 1:
        raise UsageError(f"one_cycle(rising={rising}): give a share between 0 and 1")
    _require_sense(rate, steps, 0)
    peak = max(rising * steps - 1, 1e-9)
    low, end = rate / 25, rate / 25e4

    def schedule(step: int) -> float:
        if step <= peak:
            return _between(low, rate, step / peak)
        return _between(rate, end, min((step - peak) / max(steps - 1 - peak, 1e-9), 1.0))

    return schedule


SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {
    "cosine": cosine,
    "constant": constant,
    "linear": linear,
    "one_cycle": one_cycle,
}


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def _warmed(schedule: Schedule, rate: float, steps: int, warmup: int) -> Schedule:
    """A schedule whose first updates rise linearly to the step size."""
    _require_sense(rate, steps, warmup)
    return lambda step: rate * (step + 1) / warmup if step < warmup else schedule(step - warmup)


def _require_sense(rate: float, steps: int, warmup: int) -> None:
    if not 0 < rate < math.inf:
        raise UsageError(f"rate={rate}: give a positive number")
    if steps < 1 or warmup < 0:
        raise UsageError(f"steps={steps}, warmup={warmup}: give 1 or more, and 0 or more")
