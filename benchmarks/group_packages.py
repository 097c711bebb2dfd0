"""Packages for mixed models as opponents of `benchmarks/new_groups.py`, with the posterior of a new group.

Each fits a mean and the covariance of group effects on the known groups. None of them adapts to rows of a group that
it was not fitted on, so the conditional mean of the new group's effects stands here, in closed form. Random effects
are a level, and slopes of at most three features that vary within groups; where a fit with slopes fails, a level alone.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["PACKAGES"]

Array: TypeAlias = NDArray[Any]
Predict: TypeAlias = Callable[[Array, Array, Array], Array]
Fit: TypeAlias = Callable[[Array, Array, Array, list[int]], Predict]

# features with slopes of their own, and the share of their variance that is within groups, at least
SLOPES, WITHIN = 3, 0.1
# features up to which squares are fixed effects too
SQUARED = 12


def posterior(mean: Callable[[Array], Array], slopes: list[int], covariance: Array, noise: float) -> Predict:
    r"""Prediction by $f(x) + z^\top D Z^\top (Z D Z^\top + \sigma^2 I)^{-1} (y - f(X))$, with support rows `X`, `y`."""

    def design(rows: Array) -> Array:
        return np.c_[np.ones(len(rows)), rows[:, slopes]]

    def predict(support: Array, y: Array, query: Array) -> Array:
        base = mean(query)
        if not len(support):
            return base
        known = design(support)
        among = known @ covariance @ known.T + max(noise, 1e-8) * np.eye(len(known))
        effects = covariance @ known.T @ np.linalg.solve(among, y - mean(support))
        return base + design(query) @ effects

    return predict


def varying(x: Array, group: Array) -> list[int]:
    """The features with the largest variance within groups, at most `SLOPES`, in order."""
    number = np.unique(group, return_inverse=True)[1]
    count = np.bincount(number)[:, None]
    means = np.stack([np.bincount(number, column) for column in x.T], 1) / count
    within = ((x - means[number]) ** 2).mean(0)
    share = within / np.maximum(x.var(0), 1e-12)
    best = [int(column) for column in np.argsort(-within, kind="stable") if share[column] > WITHIN]
    return sorted(best[:SLOPES])


def independent(x: Array) -> list[int]:
    """The features that are no linear combination of those before them and a constant."""
    kept: list[int] = []
    basis = np.ones((len(x), 1)) / np.sqrt(len(x))
    for column in range(x.shape[1]):
        rest = x[:, column] - basis @ (basis.T @ x[:, column])
        rest = rest - basis @ (basis.T @ rest)
        size = np.linalg.norm(rest)
        if size > 1e-6 * max(np.linalg.norm(x[:, column]), 1e-12) and size > 1e-8:
            basis = np.c_[basis, rest / size]
            kept.append(column)
    return kept


def checked(predict: Predict, x: Array, y: Array) -> Predict:
    """The same, where it says numbers."""
    if not np.isfinite(predict(x[:2], y[:2], x[:5])).all():
        raise ArithmeticError("its predictions are no numbers")
    return predict


def with_slopes(fit: Fit) -> Callable[[Array, Array, Array], Predict]:
    """The fit with slopes, and without them where that fails or says what is no number."""

    def fitted(x: Array, y: Array, group: Array) -> Predict:
        slopes = varying(x, group)
        try:
            return checked(fit(x, y, group, slopes), x, y)
        except (np.linalg.LinAlgError, ValueError, ArithmeticError, RuntimeError):
            if not slopes:
                raise
        return checked(fit(x, y, group, []), x, y)

    return fitted


@with_slopes
def statsmodels_mixed(x: Array, y: Array, group: Array, slopes: list[int]) -> Predict:
    """`MixedLM` of statsmodels, by REML, with all features as fixed effects."""
    api = importlib.import_module("statsmodels.api")
    kept = independent(x)
    ones = np.ones((len(x), 1))
    model = api.MixedLM(y, np.c_[ones, x[:, kept]], groups=group, exog_re=np.c_[ones, x[:, slopes]])
    result = model.fit(method=["lbfgs", "powell"], maxiter=200)
    weights = np.asarray(result.fe_params)
    covariance = np.atleast_2d(np.asarray(result.cov_re))
    return posterior(
        lambda rows: weights[0] + rows[:, kept] @ weights[1:], slopes, covariance, float(result.scale)
    )


@with_slopes
def mixedlm_mixed(x: Array, y: Array, group: Array, slopes: list[int]) -> Predict:
    """`lmer` of mixedlm, by REML, with all features as fixed effects."""
    mixedlm = importlib.import_module("mixedlm")
    kept = independent(x)
    frame = pd.DataFrame(x, columns=[f"x{column}" for column in range(x.shape[1])])
    frame = frame.assign(y=y, group=group)
    fixed = " + ".join(["1", *(f"x{column}" for column in kept)])
    own = " + ".join(["1", *(f"x{column}" for column in slopes)])
    result = mixedlm.lmer(f"y ~ {fixed} + ({own} | group)", frame)
    weights = np.array(list(result.fixef().values()))
    covariance = np.asarray(result.VarCorr().get_cov("group"))
    return posterior(
        lambda rows: weights[0] + rows[:, kept] @ weights[1:], slopes, covariance, float(result.sigma) ** 2
    )


def mixedlm_with_squares(x: Array, y: Array, group: Array) -> Predict:
    """The same on the features and, where they are few, their squares."""

    def columns(rows: Array) -> Array:
        return np.c_[rows, rows**2] if rows.shape[1] <= SQUARED else rows

    predict = mixedlm_mixed(columns(x), y, group)
    return lambda support, known, query: predict(columns(support), known, columns(query))


@with_slopes
def merf(x: Array, y: Array, group: Array, slopes: list[int]) -> Predict:
    """`MERF`: a random forest as the mean, ten steps of expectation maximisation."""
    from sklearn.ensemble import RandomForestRegressor

    package = importlib.import_module("merf")
    logging.disable(logging.INFO)
    forest = RandomForestRegressor(n_estimators=100, n_jobs=1, random_state=0)
    model = package.MERF(forest, max_iterations=10)
    model.fit(x, np.c_[np.ones(len(x)), x[:, slopes]], pd.Series(group), y)
    covariance, noise = np.asarray(model.D_hat_history[-1]), float(model.sigma2_hat_history[-1])
    return posterior(model.trained_fe_model.predict, slopes, covariance, noise)


@with_slopes
def gpboost(x: Array, y: Array, group: Array, slopes: list[int]) -> Predict:
    """`GPBoost`: 100 rounds of boosting, the group effects independent of each other."""
    package = importlib.import_module("gpboost")
    further = {}
    if slopes:
        further = {
            "group_rand_coef_data": x[:, slopes],
            "ind_effect_group_rand_coef": [1] * len(slopes),
        }
    model = package.GPModel(group_data=group, likelihood="gaussian", **further)
    options = {
        "learning_rate": 0.05, "max_depth": 5, "min_data_in_leaf": 10, "verbose": -1, "num_threads": 1,
        "seed": 0,
    }  # fmt: skip
    booster = package.train(
        params=options, train_set=package.Dataset(x, label=y), gp_model=model, num_boost_round=100
    )
    noise, *variances = (float(value) for value in np.ravel(model.get_cov_pars().loc["Param."]))
    return posterior(_trees(booster, slopes), slopes, np.diag(variances), noise)


def _trees(booster: Any, slopes: list[int]) -> Callable[[Array], Array]:
    """The mean that GPBoost found: its prediction for a group it does not know."""

    def mean(rows: Array) -> Array:
        further = {"group_rand_coef_data_pred": rows[:, slopes]} if slopes else {}
        found = booster.predict(
            data=rows, group_data_pred=np.full(len(rows), "a new one"), predict_var=False, pred_latent=True,
            **further,
        )  # fmt: skip
        return np.asarray(found["fixed_effect"])

    return mean


PACKAGES: dict[str, Callable[[Array, Array, Array], Predict]] = {
    "statsmodels": statsmodels_mixed,
    "mixedlm": mixedlm_mixed,
    "mixedlm with squares": mixedlm_with_squares,
    "MERF": merf,
    "GPBoost": gpboost,
}
