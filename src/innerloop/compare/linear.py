"""Logistic regression baselines: of each task on its own, or shrunk to the pooled one."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import UsageError
from ..inner.head import HeadLearner
from ..inner.heads import LaplaceHead
from ..inner.model import Model
from ..models.builtin import Polynomial
from ..models.network import Network, Params
from ..outer.mean_loss import mean_loss
from ..outer.metagrad import unrolled
from ..tasks.splits import Tasks
from .sklearn_methods import training_rows

__all__ = ["logistic", "spread_of", "with_best_spread"]

# prior standard deviations of the coefficients that are tried
SPREADS = tuple(float(value) for value in np.logspace(-2, 1.5, 8))


def logistic(tasks: Tasks, *, pooled: bool, inverse_penalty: float = 1.0) -> Model:
    """Logistic regression from a Gaussian prior whose spread is the best on meta-validation tasks.

    Arguments:
        tasks: with feature vectors and classes that mean the same in every task.
        pooled: the prior's mean is the pooled regression; otherwise 0.
        inverse_penalty: `C` of the pooled regression.

    Returns:
        The model.

    Example:
        >>> from innerloop.tasks import arrays
        >>> x = np.random.default_rng(0).normal(size=(60, 1))
        >>> tasks = arrays(x, (x[:, 0] > 0).astype(int), np.arange(60) // 6, n_shot=1, kind="classification")
        >>> logistic(tasks, pooled=True).meta["head/mean"].shape
        torch.Size([2, 2])
    """
    if tasks.targets.kind != "classification":
        raise UsageError("logistic regression predicts classes, and these tasks are regression")
    learner = HeadLearner(
        Network(Polynomial()), LaplaceHead(tasks.n_features, tasks.n_outputs, "diagonal"), unrolled()
    )
    meta = learner.init()
    if pooled:
        meta["head/mean"] = _pooled_weights(tasks, inverse_penalty).to(meta["head/mean"])
    return with_best_spread(learner, meta, tasks)


def with_best_spread(learner: HeadLearner, meta: Params, tasks: Tasks) -> Model:
    """The prior around `head/mean` whose spread has the lowest loss on meta-validation tasks."""
    models = [Model(learner, _with_spread(meta, spread)) for spread in SPREADS]
    return min(models, key=lambda model: mean_loss(model, tasks.valid))


def spread_of(model: Model) -> float:
    """The prior standard deviation of the coefficients of a model."""
    return math.exp(float(model.meta["head/root"][0, 0]))


def _with_spread(meta: Params, spread: float) -> Params:
    return meta | {"head/root": torch.diag(torch.full_like(meta["head/root"][0], math.log(spread)))}


def _pooled_weights(tasks: Tasks, inverse_penalty: float) -> torch.Tensor:
    """Weights `(F + 1, C)` of the regression on all rows, the constant's last."""
    from sklearn.linear_model import LogisticRegression

    x, y = training_rows(tasks.train)
    fitted = LogisticRegression(C=inverse_penalty, max_iter=1000).fit(x, y)
    own = np.concatenate([fitted.coef_, fitted.intercept_[:, None]], 1)
    if len(fitted.classes_) == 2:
        own = np.concatenate([-own, own]) / 2  # one logit for two classes is half of each
    weights = np.zeros((tasks.n_features + 1, tasks.n_outputs))
    # a class that no training row has gets the least likely constant
    weights[-1] = own[:, -1].min() - 5.0
    weights[:, fitted.classes_.astype(np.int64)] = own.T
    return torch.from_numpy(weights)
