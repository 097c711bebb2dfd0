"""scikit-learn estimators as learners: fitted to the support rows of each task, or once to all training rows.

So they are scored by `evaluate` on the same episodes as every other method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..inner.learner import Learner, MetaGradient, Recipe
from ..models.losses import KNOWN, task_losses
from ..models.network import Network, Params
from ..outer.metagrad import unrolled
from ..tasks.episodes import Batch
from ..tasks.sources import RowSource, Source, Targets, stream

__all__ = ["EachTarget", "Estimator", "EstimatorLearner", "Remembering", "training_rows"]

Array = np.ndarray
Estimator: TypeAlias = Any  # of scikit-learn, which ships no types: `fit`, `predict`, `predict_proba`

# no class that a task's support lacks is impossible
_LEAST = 1e-3


class Fitted(dict[str, Tensor]):
    """What such a learner adapts to: nothing in tensors, an estimator for each task beside them."""

    def __init__(self, estimators: list[Estimator]) -> None:
        super().__init__()
        self.estimators = estimators
        self.last: tuple[Tensor, Tensor] | None = None

    def __bool__(self) -> bool:
        """An empty dict is what a task without support has; this is not one."""
        return True


class Remembering:
    """The rows of a task for an estimator that all tasks share: what is fitted in no time, and is too large to copy.

    Arguments:
        shared: fitted anew to the rows of whichever task is predicted for.
    """

    def __init__(self, shared: Estimator) -> None:
        self.shared = shared

    def fit(self, x: Array, y: Array) -> Remembering:
        """Remember the rows."""
        self.rows, self.classes_ = (x, y), np.unique(y)
        return self

    def predict(self, x: Array) -> Array:
        """Values."""
        return np.asarray(self.shared.fit(*self.rows).predict(x))

    def predict_proba(self, x: Array) -> Array:
        """A share for each of `classes_`."""
        return np.asarray(self.shared.fit(*self.rows).predict_proba(x))


class EachTarget:
    """An estimator for each of several targets, fitted to the rows that know it; 0, the mean, where none does.

    Arguments:
        make: `(rows) -> estimator` of one target.

    Example:
        >>> from sklearn.linear_model import LinearRegression
        >>> y = np.array([[1.0, np.nan], [2.0, 5.0], [np.nan, 6.0]])
        >>> both = EachTarget(lambda rows: LinearRegression()).fit(np.arange(3.0)[:, None], y)
        >>> both.predict(np.array([[3.0]])).round(6).tolist()
        [[4.0, 7.0]]
    """

    def __init__(self, make: Callable[[int], Estimator]) -> None:
        self.make = make

    def fit(self, x: Array, y: Array) -> EachTarget:
        """Fit one estimator a target."""
        known = ~np.isnan(y)
        rows = [(x[own], y[own, target]) for target, own in enumerate(known.T)]
        self.estimators = [self.make(len(own)).fit(seen, own) if len(own) else None for seen, own in rows]
        return self

    def predict(self, x: Array) -> Array:
        """Values `(n, C)`."""
        blank = np.zeros(len(x))
        return np.stack([blank if each is None else each.predict(x) for each in self.estimators], axis=1)


@dataclass(frozen=True, eq=False)
class EstimatorLearner(Learner):
    """A learner that fits an estimator to each task's support, or brings one that was fitted to all rows.

    Arguments:
        targets: what it predicts.
        make: `(support rows) -> estimator`, fitted to each task; of one target where rows know some of several;
            `None` to take `pooled`.
        pooled: an estimator that is fitted already and never adapts.
    """

    targets: Targets
    make: Callable[[int], Estimator] | None = None
    pooled: Estimator = None
    recipe: Recipe | None = None
    network: Network = field(default_factory=lambda: Network(nn.Identity()))
    metagrad: MetaGradient = field(default_factory=unrolled)

    @property
    def takes_partial(self) -> bool:
        """Each target has an estimator of its own then."""
        return True

    def init(self) -> Params:
        """A constant prediction, for tasks without support."""
        return {"constant": torch.zeros(self.targets.n_outputs)}

    def own_like(self, meta: Params) -> Params:
        """A task owns no tensors."""
        return {}

    def path(
        self, meta: Params, support: Batch, *, steps: int | None = None, key: Tensor | None = None
    ) -> Iterator[Params]:
        """The constant (step 0) or the pooled estimator, then what is fitted to the support."""
        if self.make is None:
            yield Fitted([self.pooled] * len(support.y))
            return
        yield Fitted([None] * len(support.y))
        if steps != 0:
            rows = (unpadded(support, task) for task in range(len(support.y)))
            yield Fitted([self._fit(x, y) for x, y in rows])

    def predict(self, meta: Params, adapted: Params, x: Any, *, key: Tensor | None = None) -> Tensor:
        """Values `(T, n, C)`, or the logarithms of probabilities."""
        assert isinstance(adapted, Fitted)
        if adapted.last is None or adapted.last[0] is not x:
            if self.make is None:
                # one estimator for all tasks: asked once
                prediction = self._predict(meta, self.pooled, x.flatten(0, 1)).reshape(*x.shape[:2], -1)
            else:
                rows = zip(adapted.estimators, x, strict=True)
                prediction = torch.stack([self._predict(meta, estimator, own) for estimator, own in rows])
            adapted.last = (x, prediction)
        return adapted.last[1]

    def loss(self, meta: Params, adapted: Params, batch: Batch, *, key: Tensor | None = None) -> Tensor:
        """Mean squared error or mean negative log probability of each task, `(T,)`."""
        values = KNOWN if self.targets.partial else "mse"
        name = values if self.targets.kind == "regression" else "cross_entropy"
        return task_losses(name, self.predict(meta, adapted, batch.x), batch)

    def _fit(self, x: Array, y: Array) -> Estimator:
        if not len(x):
            return None
        if self.targets.kind == "classification" and len(np.unique(y)) == 1:
            from sklearn.dummy import DummyClassifier

            return DummyClassifier().fit(x, y)
        assert self.make is not None
        if self.targets.partial:
            return EachTarget(self.make).fit(x, y)
        return self.make(len(x)).fit(x, y)

    def _predict(self, meta: Params, estimator: Estimator, x: Tensor) -> Tensor:
        constant = meta["constant"]
        if estimator is None:
            return constant.expand(len(x), len(constant))
        rows = x.flatten(1).double().cpu().numpy()
        if self.targets.kind == "regression":
            return torch.from_numpy(np.asarray(estimator.predict(rows)).reshape(len(x), -1)).to(constant)
        share = np.zeros((len(x), self.targets.n_outputs))
        share[:, np.asarray(estimator.classes_, dtype=np.int64)] = estimator.predict_proba(rows)
        share = (1 - _LEAST) * share + _LEAST / share.shape[1]
        return torch.from_numpy(np.log(share)).to(constant)


def unpadded(batch: Batch, task: int) -> tuple[Array, Array]:
    """Features as vectors and targets of one task of a stack, without padding."""
    real = slice(None) if batch.weight is None else batch.weight[task] > 0
    x, y = batch.x[task][real].flatten(1).double().cpu().numpy(), batch.y[task][real].cpu().numpy()
    return x, y[:, 0] if y.ndim > 1 and y.shape[1] == 1 else y


def training_rows(source: Source, *, episodes: int = 500) -> tuple[Array, Array]:
    """Features and targets of all rows of a source; of tasks without end, the query rows of some."""
    rows = source.whole() if isinstance(source, RowSource) else source.sample(episodes, stream(0)).query
    pairs = [unpadded(rows, task) for task in range(len(rows.y))]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
