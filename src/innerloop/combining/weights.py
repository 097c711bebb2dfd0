"""Weights on the simplex: how much each of several predictions counts in their average."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["class_weights", "shrunken", "simplex_weights", "task_draws"]

Array = NDArray[np.float64]

# draws of tasks that weights are averaged over, and steps of the search for those of classes
_DRAWS, _STEPS = 50, 100
# tasks that the weights by error alone count as
_PRIOR_TASKS = 5


def task_draws(count: int, draws: int = _DRAWS, *, seed: int = 0) -> Array:
    """Weights of tasks in a Bayesian bootstrap, `(draws, count)`, each draw with the mean 1; the first all equal.

    Rubin, 1981, *The Bayesian Bootstrap*.

    Example:
        >>> task_draws(3, 2)[0].tolist()
        [1.0, 1.0, 1.0]
    """
    chance = np.random.default_rng(seed).standard_exponential((draws, count))
    chance[0] = 1.0
    drawn: Array = chance / chance.mean(1, keepdims=True)
    return drawn


def simplex_weights(errors: Array, draws: Array | None = None) -> Array:
    r"""The weights of an average of `M` predictions with the lowest mean squared error, tasks counting equally.

    $\min_w \sum_t \frac1{n_t} \lVert y_t - F_t w \rVert^2,\; w \ge 0,\; \sum w = 1$. With weights on the simplex the
    error of the average is $w^\top E w$ for the mean products `E` of the members' errors. The weights are averaged
    over a Bayesian bootstrap of the tasks, so that few tasks do not decide for one member by chance.
    Breiman, 1996, *Stacked Regressions*.

    Arguments:
        errors: of each task the mean products of the members' errors, `(T, M, M)`.
        draws: weights of the tasks, `(draws, T)`, see `task_draws`; drawn unless given.

    Returns:
        `(M,)`.

    Example:
        >>> level, opposite = np.array([1.0, 1.0, 1.0]), np.array([1.0, -1.0, 1.0])
        >>> both = np.stack([level, opposite], 1)
        >>> simplex_weights((both.T @ both / 3)[None]).round(6).tolist()
        [0.5, 0.5]
    """
    drawn = task_draws(len(errors)) if draws is None else draws
    products = np.einsum("dt,tij->dij", drawn, errors) / len(errors)
    return _summing_to_1(_lowest(products).mean(0))


def shrunken(weights: Array, errors: Array) -> Array:
    r"""Weights that few tasks have decided, drawn towards weights by the members' own errors.

    $\frac{T}{T + 5} w + \frac{5}{T + 5} v,\; v_m \propto e_m^{-2}$ for the mean squared error $e_m$ of a member. What
    members' errors have in common is hardly known from a few tasks; which of them are good is. Bates & Granger, 1969,
    *The Combination of Forecasts*, have weights by the errors alone.

    Arguments:
        weights: on the simplex, `(M,)`.
        errors: of each task and member, `(T, M)`.

    Example:
        >>> shrunken(np.array([1.0, 0.0]), np.array([[1.0, 1.0]] * 5)).tolist()
        [0.75, 0.25]
    """
    alone = np.maximum(errors.mean(0), 1e-12) ** -2.0
    share = len(errors) / (len(errors) + _PRIOR_TASKS)
    return _summing_to_1(share * weights + (1 - share) * alone / alone.sum())


def _lowest(products: Array) -> Array:
    """The `w` on the simplex with the lowest `w' E w`, of each `E` `(D, M, M)`: `(D, M)`, by trying every support."""
    count = products.shape[1]
    best, value = np.zeros(products.shape[:2]), np.full(len(products), np.inf)
    scale = np.trace(products, axis1=1, axis2=2)[:, None, None] / count
    steady = products + 1e-9 * scale * np.eye(count)
    for size in range(1, count + 1):
        for chosen in itertools.combinations(range(count), size):
            part = steady[:, chosen][:, :, chosen]
            raw = np.linalg.solve(part, np.ones((len(part), size, 1)))[..., 0]
            own = raw / raw.sum(1, keepdims=True)
            reached = np.einsum("di,dij,dj->d", own, part, own)
            better = (own >= 0).all(1) & (reached < value)
            value[better] = reached[better]
            best[better] = 0.0
            best[np.ix_(better, chosen)] = own[better]
    return best


def class_weights(chances: Sequence[Array], draws: Array | None = None) -> Array:
    r"""The weights of a mixture of `M` predictive distributions with the lowest log loss, tasks counting equally.

    $\max_w \sum_t \frac1{n_t} \sum_i \log \sum_m w_m p_m(y_{ti})$ by expectation maximisation, averaged over a Bayesian
    bootstrap of the tasks as in `simplex_weights`.

    Arguments:
        chances: of each task the probability that each member gave to what came, `(n_t, M)`.
        draws: see `simplex_weights`.

    Returns:
        `(M,)`.

    Example:
        >>> class_weights([np.array([[0.9, 0.2], [0.8, 0.1]])]).round(2).tolist()
        [1.0, 0.0]
    """
    drawn = task_draws(len(chances)) if draws is None else draws
    rows = np.maximum(np.concatenate(chances), 1e-12)
    task = np.repeat(np.arange(len(chances)), [len(own) for own in chances])
    share = drawn[:, task] / np.bincount(task)[task]
    weights = np.full((len(drawn), rows.shape[1]), 1 / rows.shape[1])
    for _ in range(_STEPS):
        ratio = share / (weights @ rows.T)
        weights = weights * (ratio @ rows)
        weights /= weights.sum(1, keepdims=True)
    return _summing_to_1(weights.mean(0))


def _summing_to_1(weights: Array) -> Array:
    """The same without what rounding added."""
    total: Array = weights / weights.sum()
    return total
