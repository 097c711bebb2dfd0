"""What a careful person would write in an afternoon for few rows of a new group: opponents of `benchmarks/default.py`.

Each takes the rows of known groups (features `(N, F)` and target `(N,)`, standardised, and the group of each row) and
returns a function from support features, support targets and query features to predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV

__all__ = ["OPPONENTS", "boosting_on_support"]

Array: TypeAlias = NDArray[Any]
Pooled: TypeAlias = Callable[[Array], Array]
Predict: TypeAlias = Callable[[Array, Array, Array], Array]

# groups, and rows of each, that the marginal likelihood is computed on
GROUPS, ROWS = 120, 40


def _line(x: Array, y: Array) -> Pooled:
    """A pooled line, with squares where there are few features."""

    def columns(rows: Array) -> Array:
        return np.c_[rows, rows**2] if rows.shape[1] <= 12 else rows

    fitted = RidgeCV(np.logspace(-3, 3, 13)).fit(columns(x), y)
    return lambda rows: fitted.predict(columns(rows))


def _boosting(x: Array, y: Array) -> Pooled:
    made = HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.06, min_samples_leaf=10, random_state=0
    )
    return made.fit(x, y).predict


def _process(x: Array, rest: Array, group: Array) -> Predict:
    """A Gaussian process on residuals: level, slopes and a smooth curve of each group; one kernel for all."""
    groups = [np.flatnonzero(group == name)[:ROWS] for name in np.unique(group)[:GROUPS]]

    def kernel(p: Array, a: Array, b: Array) -> Array:
        level, slope, curve, scale = np.exp(p[:4])
        square = ((a[:, None] - b[None]) ** 2).mean(-1)
        return level + slope * a @ b.T / a.shape[1] + curve * np.exp(-square / (2 * scale**2))

    def loss(p: Array) -> float:
        total = 0.0
        for own in groups:
            covariance = kernel(p, x[own], x[own]) + np.exp(p[4]) * np.eye(len(own))
            try:
                root = np.linalg.cholesky(covariance)
            except np.linalg.LinAlgError:
                return 1e10
            turned = np.linalg.solve(root, rest[own])
            total += 0.5 * turned @ turned + np.log(np.diag(root)).sum()
        return total / len(groups)

    v = np.log(rest.var() + 1e-9)
    bounds = [(v - 12, v + 4)] * 3 + [(-3, 3), (v - 9, v + 2)]
    tries = [
        minimize(loss, [v - 1, v - 3, v - 1, np.log(scale), v - 1.5], method="L-BFGS-B", bounds=bounds,
                 options={"maxiter": 60})
        for scale in (0.3, 1.0)
    ]  # fmt: skip
    best = min(tries, key=lambda each: each.fun).x

    def predict(support: Array, left: Array, query: Array) -> Array:
        if not len(support):
            return np.zeros(len(query))
        covariance = kernel(best, support, support) + np.exp(best[4]) * np.eye(len(support))
        return kernel(best, query, support) @ np.linalg.solve(covariance, left)

    return predict


def _on(mean: Pooled, rest: Predict) -> Predict:
    return lambda support, y, query: mean(query) + rest(support, y - mean(support) if len(y) else y, query)


def pooled_line(x: Array, y: Array, group: Array) -> Predict:
    line = _line(x, y)
    return lambda support, target, query: line(query)


def pooled_boosting(x: Array, y: Array, group: Array) -> Predict:
    boosting = _boosting(x, y)
    return lambda support, target, query: boosting(query)


def process_on_line(x: Array, y: Array, group: Array) -> Predict:
    line = _line(x, y)
    return _on(line, _process(x, y - line(x), group))


def process_on_boosting(x: Array, y: Array, group: Array) -> Predict:
    """Residuals are those of trees that do not know the group: four folds over groups."""
    names = np.unique(group)
    fold = dict(zip(names, np.random.default_rng(1).integers(0, 4, len(names)), strict=True))
    of_row = np.array([fold[name] for name in group])
    rest = np.zeros(len(y))
    for number in range(4):
        away = of_row == number
        if away.any() and not away.all():
            rest[away] = y[away] - _boosting(x[~away], y[~away])(x[away])
    return _on(_boosting(x, y), _process(x, rest, group))


def _summary(base: Pooled, support: Array, y: Array, query: Array) -> Array:
    """Query features, the pooled prediction, and what the support rows say: means, near rows, a line of their own."""
    rest = y - base(support)
    square = ((query[:, None] - support[None]) ** 2).mean(-1)
    near = np.exp(-square / 0.5)
    near /= near.sum(1, keepdims=True) + 1e-12
    design = np.c_[np.ones(len(support)), support]
    line = np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ rest)
    return np.c_[
        query, base(query), np.full(len(query), rest.mean()), np.full(len(query), rest.std()), near @ rest,
        rest[square.argmin(1)], np.sqrt(square.min(1)), np.c_[np.ones(len(query)), query] @ line,
        np.full(len(query), y.mean()),
    ]  # fmt: skip


def boosting_on_support(x: Array, y: Array, group: Array, rows: int) -> Predict:
    """Boosting on features and a summary of so many rows of the group, fitted on draws from the known groups."""
    base, rng = _line(x, y), np.random.default_rng(2)
    members = [np.flatnonzero(group == name) for name in np.unique(group)]
    inputs, targets = [], []
    for own in members:
        if len(own) <= rows:
            continue
        for _ in range(max(3, 3000 // len(members) // max(1, len(own) - rows))):
            order = rng.permutation(own)[: rows + 30]
            known, asked = order[:rows], order[rows:]
            inputs.append(_summary(base, x[known], y[known], x[asked]))
            targets.append(y[asked])
    made = HistGradientBoostingRegressor(
        max_iter=250, learning_rate=0.05, min_samples_leaf=15, random_state=0
    )
    fitted = made.fit(np.vstack(inputs), np.concatenate(targets))
    return lambda support, target, query: fitted.predict(_summary(base, support, target, query))


OPPONENTS: dict[str, Callable[[Array, Array, Array], Predict]] = {
    "pooled line": pooled_line,
    "pooled boosting": pooled_boosting,
    "Gaussian process on the line": process_on_line,
    "Gaussian process on boosting": process_on_boosting,
}
