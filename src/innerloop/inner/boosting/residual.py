"""A shared mean of boosted trees, and any learner on what it leaves of the targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.network import Network, Params
from ...tasks.episodes import Batch, all_draws
from ..heads.base import row_weights, target_columns
from ..learner import Learner, MetaGradient, Recipe
from .trees import Trees

__all__ = ["ResidualLearner"]

_MEAN, _REST = "mean/", "rest/"


@dataclass(frozen=True, eq=False)
class ResidualLearner(Learner):
    r"""Predicts $f(x) + g_t(x)$: boosted trees `f` that all tasks share, and what a learner makes of the residuals.

    The learner is fitted on residuals $y - f_{-t}(x)$, with trees that were grown without the task; on those of the
    trees that know it, tasks would seem to differ less than they do. Hajjem, Bellavance & Larocque, 2014,
    *Mixed-effects Random Forest for Clustered Data*; Sigrist, 2022, *Gaussian Process Boosting*.

    Arguments:
        trees: the mean.
        learner: what adapts to the residuals.
        metagrad: how the gradient comes back, where there is one.
        recipe: see `Learner.recipe`.
    """

    trees: Trees
    learner: Learner
    metagrad: MetaGradient
    recipe: Recipe | None = None

    @property
    def network(self) -> Network:  # type: ignore[override]
        """That of the learner."""
        return self.learner.network

    def init(self) -> Params:
        return {
            **{_MEAN + name: value for name, value in self.trees.init().items()},
            **{_REST + name: value for name, value in self.learner.init().items()},
        }

    def own_like(self, meta: Params) -> Params:
        return self.learner.own_like(_part(meta, _REST))

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        yield from self.learner.path(_part(meta, _REST), self._residual(meta, support), steps=steps, key=key)

    def predict(self, meta: Params, adapted: Params, x: Tensor, *, key: Tensor | None = None) -> Tensor:
        rest: Tensor = self.learner.predict(_part(meta, _REST), adapted, x, key=key)
        return self._mean(meta, x) + rest

    def variance(self, meta: Params, adapted: Params, x: Tensor) -> Tensor | None:
        return self.learner.variance(_part(meta, _REST), adapted, x)

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """The loss of the learner on the residuals."""
        return self.learner.loss(_part(meta, _REST), adapted, self._residual(meta, batch), key=key)

    @property
    def fits_directly(self) -> bool:
        return self.learner.fits_directly

    @property
    def closed_form(self) -> bool:
        return self.learner.closed_form

    def fit(self, meta: Params, rows: Batch) -> Params | None:
        """The trees, and the learner on residuals of trees that were grown without the task."""
        x, inside = rows.x.cpu(), row_weights(rows, rows.x).cpu() > 0
        task = np.repeat(np.arange(len(x)), inside.sum(1).numpy())
        flat, target = x[inside].numpy(), rows.y.cpu()[inside].numpy()
        weight = (1 / np.bincount(task))[task]
        trees, without = self.trees.fit_and_leave_out(
            flat, target, groups=task, weight=weight / weight.mean()
        )
        rest = torch.zeros_like(rows.y.cpu())
        rest[inside] = torch.from_numpy(target - without).to(rest)
        fitted = self.learner.fit(_part(meta, _REST), rows._replace(y=rest.to(rows.y)))
        if fitted is None:
            return None
        named = {_MEAN + name: value.to(meta[_MEAN + name]) for name, value in trees.items()}
        return {**meta, **named, **{_REST + name: value for name, value in fitted.items()}}

    def remarks(self, meta: Params, rows: Batch) -> tuple[str, ...]:
        return self.learner.remarks(_part(meta, _REST), self._residual(meta, rows))

    def _mean(self, meta: Params, x: Tensor) -> Tensor:
        """The trees at rows `(T, n, F)`."""
        values = self.trees.predict(_part(meta, _MEAN), x.flatten(0, 1))
        return values.reshape(*x.shape[:2], self.trees.n_outputs)

    def _residual(self, meta: Params, batch: Batch) -> Batch:
        """The batch with what the mean leaves of its targets."""
        batch = all_draws(batch)
        if not batch.y.shape[1]:
            return batch
        return batch._replace(y=target_columns(batch, self.trees.n_outputs) - self._mean(meta, batch.x))


def _part(values: Params, prefix: str) -> Params:
    """The values whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
