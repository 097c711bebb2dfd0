"""Baselines: honest opponents, as learners that train, adapt and are scored like every other one.

All are one closed form, a ridge regression of each task's rows towards a prior mean; they differ in that mean
and in who chooses the strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..inner.head import HeadLearner
from ..inner.heads import GaussianHead, pooled_least_squares
from ..inner.heads.base import row_weights, with_constant
from ..inner.learner import Learner
from ..models.builtin import Polynomial
from ..models.losses import mean_rows
from ..models.network import Network, Params
from ..outer.metagrad import unrolled
from ..tasks.episodes import Batch
from ..tasks.sources import stream

__all__ = ["BASELINES", "RidgeHead", "alone_ridge", "pooled", "shrunken_ridge"]

BASELINES: dict[str, Callable[..., Learner]] = {}

# prior standard deviations (of standardised coefficients, per noise) that are tried; the last is nearly free
_SPREADS = tuple(torch.logspace(-3, 2, 21, device="cpu").tolist())
_NONE, _FREE = 1e-12, 1e4
# tasks often differ in level far more than in slopes: the constant has a spread of its own, or that of the slopes
_LEVELS = (None, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class RidgeHead(GaussianHead):
    """Ridge regression of each task towards a prior mean, its strength chosen on the meta-train tasks.

    Arguments:
        n_features: see `GaussianHead`.
        n_outputs: see `GaussianHead`.
        covariance: see `GaussianHead`.
        n_support: support rows a task, for which the strength is chosen.
        pooled: shrink towards the pooled least-squares weights; otherwise towards 0 with a free intercept.
        spreads: prior standard deviations to choose among.
        ordered: the first rows of each task are support, not random ones.
    """

    covariance: str = "diagonal"
    n_support: int = 5
    pooled: bool = True
    spreads: tuple[float, ...] = (_NONE,)
    ordered: bool = False

    def loss(self, meta: Params, adapted: Params, features: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of each task, `(T,)`."""
        error = (batch.y - self.predict(meta, adapted, features)).square().mean(-1)
        return mean_rows(error, batch.weight)

    def fit(self, meta: Params, features: Tensor, rows: Batch) -> Params:
        """The prior mean, and the spread with the lowest error on rows left out of random supports."""
        meta = dict(meta)
        if self.pooled:
            mean, noise = pooled_least_squares(features, rows)
            meta["head/mean"] = mean.to(meta["head/mean"])
            meta["head/log_noise"] = noise.log().to(meta["head/log_noise"]) / 2
        levels = _LEVELS if self.pooled and len(self.spreads) > 1 else (None if self.pooled else _FREE,)
        candidates = [
            {**meta, "head/root": _root(meta["head/root"], spread, level)}
            for spread in self.spreads
            for level in levels
        ]
        if len(candidates) == 1:
            return candidates[0]
        halves = [_divide(rows, self.n_support, None if self.ordered else draw) for draw in range(4)]
        moments = [tuple(_moments(features, side) for side in half) for half in halves]

        def error(candidate: Params) -> float:
            losses = [self._error(candidate, support, query) for support, query in moments]
            return torch.cat(losses).mean().item()

        return min(candidates, key=error)

    def _error(self, candidate: Params, support: _Moments, query: _Moments) -> Tensor:
        """Mean squared error of each task's query rows after its support, `(T,)`, of their moments alone."""
        weights = self.posterior(candidate, support.gram, support.product)[0]
        squares = (
            query.square - 2 * (weights * query.product).sum(1) + (weights * (query.gram @ weights)).sum(1)
        )
        return squares.clamp(min=0).mean(-1) / query.rows


class _Moments(NamedTuple):
    """All that squared errors of linear predictions depend on: products `(T, D, D)` and `(T, D, C)` of columns."""

    gram: Tensor
    product: Tensor
    square: Tensor
    rows: Tensor


def _moments(features: Tensor, rows: Batch) -> _Moments:
    """Of the rows that count, in float64."""
    design, target = with_constant(features).double(), rows.target.double()
    weight = row_weights(rows, design)
    weighted = (design * weight.unsqueeze(-1)).mT
    square = (target.square() * weight.unsqueeze(-1)).sum(1)
    return _Moments(weighted @ design, weighted @ target, square, weight.sum(1).clamp(min=1))


def _root(like: Tensor, spread: float, level: float | None) -> Tensor:
    """The root of the prior: one spread for all slopes, one for the constant."""
    logs = torch.full_like(like[0], math.log(spread))
    logs[-1] = math.log(level or spread)
    return torch.diag(logs)


def _divide(rows: Batch, n_support: int, draw: int | None) -> tuple[Batch, Batch]:
    """Weights that mark `n_support` rows of each task, random or the first, as support, others as query."""
    weight = rows.x.new_ones(rows.y.shape[:2]) if rows.weight is None else rows.weight
    keys = torch.linspace(0, 1, weight.shape[1], device=weight.device).expand(weight.shape)
    if draw is not None:
        # drawn on the CPU, so that every device gives the same
        keys = torch.rand(weight.shape, generator=stream(0, draw)).to(weight.device)
    rank = keys.masked_fill(weight == 0, 2.0).argsort(1).argsort(1)
    most = (weight.sum(1, keepdim=True) - 1).clamp(max=n_support)
    inside = (rank < most).to(weight.dtype) * weight
    return rows._replace(weight=inside), rows._replace(weight=weight - inside)


def _learner(name: str, head: RidgeHead) -> Learner:
    """A baseline with the recipe of a preset's."""
    names = ("n_features", "n_outputs", "n_support", "ordered")
    recipe = {"algorithm": name, "settings": {each: getattr(head, each) for each in names}}
    return HeadLearner(Network(Polynomial()), head, unrolled(), recipe)


def pooled(n_features: int, n_outputs: int = 1, *, n_support: int = 5, ordered: bool = False) -> Learner:
    """One least-squares line for all tasks, never adapted; arguments as of `alone_ridge`, without effect.

    Example:
        >>> pooled(2).recipe["algorithm"]
        'pooled'
    """
    return _learner("pooled", RidgeHead(n_features, n_outputs, n_support=n_support))


def alone_ridge(n_features: int, n_outputs: int = 1, *, n_support: int = 5, ordered: bool = False) -> Learner:
    """Ridge regression on each task's own support rows; only its strength is learned from other tasks.

    Arguments:
        n_features: features `F`.
        n_outputs: targets.
        n_support: support rows a task, for which the strength is chosen.
        ordered: the first rows of each task are support, not random ones.

    Returns:
        The learner; `meta_train` fits it.

    Example:
        >>> alone_ridge(2).recipe["algorithm"]
        'alone_ridge'
    """
    rows = (n_support, False, _SPREADS, ordered)
    return _learner("alone_ridge", RidgeHead(n_features, n_outputs, "diagonal", *rows))


def shrunken_ridge(
    n_features: int, n_outputs: int = 1, *, n_support: int = 5, ordered: bool = False
) -> Learner:
    """Ridge regression of each task towards the pooled weights; arguments as of `alone_ridge`.

    Example:
        >>> shrunken_ridge(2).recipe["algorithm"]
        'shrunken_ridge'
    """
    rows = (n_support, True, _SPREADS, ordered)
    return _learner("shrunken_ridge", RidgeHead(n_features, n_outputs, "diagonal", *rows))


BASELINES.update(pooled=pooled, alone_ridge=alone_ridge, shrunken_ridge=shrunken_ridge)
