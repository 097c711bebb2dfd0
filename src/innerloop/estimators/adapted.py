"""A model adapted to one group, as an ordinary fitted estimator."""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from ..errors import DataError
from ..storage.stored import Stored
from .estimator import MetaEstimator
from .grouped_rows import UNNAMED, Rows, only_group
from .outputs import Labels, Values, labels, shares, values

__all__ = ["AdaptedClassifier", "AdaptedEstimator", "AdaptedRegressor"]


class AdaptedEstimator(BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """See `AdaptedRegressor`."""

    def __init__(self, estimator: MetaEstimator) -> None:
        self.estimator = estimator

    def fit(self, X: Rows, y: Rows) -> Self:
        """Adapt to a group: what was learned across groups is the start, its rows do the rest.

        Arguments:
            X: `(n, F)` rows of one group.
            y: `(n,)` targets.

        Raises:
            DataError: there are rows of several groups, or a value cannot be used as it is.
        """
        parent = self.estimator
        check_is_fitted(parent)
        targets = parent._checked_targets(y)
        frame = parent._columns.table(parent._features(X), targets)
        group = self._group_of(frame, UNNAMED)
        frame = frame.assign(**{parent._columns.task: group})
        return self._of(parent._stored.adapt_frame(frame), group, len(frame))

    def _of(self, adapted: Stored, group: str, n_support: int) -> Self:
        """Take over a model that was adapted to the group."""
        self.group_, self.n_support_ = group, n_support
        self.n_features_in_ = self.estimator.n_features_in_
        for name in ("feature_names_in_", "classes_"):
            if hasattr(self.estimator, name):
                setattr(self, name, getattr(self.estimator, name))
        self._stored = adapted
        return self

    def _predicted(self, X: Rows, interval: float | None = None) -> pd.DataFrame:
        """What `predict_frame` adds to the rows of X."""
        check_is_fitted(self)
        parent = self.estimator
        parent._require_interval(interval)
        frame = parent._columns.table(parent._features(X))
        self._group_of(frame, self.group_)
        frame = frame.assign(**{parent._columns.task: self.group_})
        return self._stored.predict_frame(frame, interval=interval).iloc[:, frame.shape[1] :]

    def _group_of(self, frame: pd.DataFrame, otherwise: str) -> str:
        """The one group that X names; `otherwise` where it names none."""
        columns = self.estimator._columns
        if not columns.task_in_x:
            return otherwise
        why = f"a model of one group takes rows of one; adapt(X, y, groups=X[{columns.task!r}]) gives a dict of models"
        found = only_group(frame[columns.task].to_numpy(), why=why)
        if otherwise not in (UNNAMED, found):
            raise DataError(
                f"rows of group {found!r} for the model of group {otherwise!r}: take its own model"
            )
        return found

    def __sklearn_clone__(self) -> Self:
        """An unfitted one of the same fitted meta-learner."""
        return type(self)(self.estimator)


class AdaptedRegressor(RegressorMixin, AdaptedEstimator):  # type: ignore[misc]
    """A regressor of one group, as `MetaRegressor.adapt` returns it.

    Its `fit` adapts to another group, and `clone` keeps what was learned across groups: `cross_val_score` of it
    asks how well the group is predicted from parts of its rows.

    Arguments:
        estimator: a fitted `MetaRegressor`.

    Example:
        >>> import innerloop as il
        >>> X, ids = np.arange(40.0).reshape(-1, 1), np.repeat(range(8), 5)
        >>> model = il.MetaRegressor(algorithm="mixed").fit(X, np.sin(ids) + X[:, 0], groups=ids)
        >>> AdaptedRegressor(model).fit([[1.0], [2.0]], [5.0, 6.0]).n_support_
        2
    """

    def predict(self, X: Rows, *, interval: float | None = None) -> Values:
        """Values `(n,)`, or `(n, C)` of several targets, of rows `(n, F)` of the group; see `MetaRegressor.predict`."""
        return values(self._predicted(X, interval), self.estimator._columns.targets, interval)


class AdaptedClassifier(ClassifierMixin, AdaptedEstimator):  # type: ignore[misc]
    """A classifier of one group, as `MetaClassifier.adapt` returns it; see `AdaptedRegressor`.

    Arguments:
        estimator: a fitted `MetaClassifier`.

    Example:
        >>> import innerloop as il
        >>> X, ids = np.arange(40.0).reshape(-1, 1), np.repeat(range(8), 5)
        >>> model = il.MetaClassifier(algorithm="ridge", steps=2).fit(X, X[:, 0] % 5 > ids / 4, groups=ids)
        >>> AdaptedClassifier(model).fit([[1.0], [2.0]], [False, True]).predict_proba([[1.0]]).shape
        (1, 2)
    """

    def predict(self, X: Rows, *, interval: float | None = None) -> Labels:
        """Class labels `(n,)` for rows `(n, F)` of the group; see `MetaClassifier.predict`."""
        return labels(self._predicted(X, interval), self.classes_, interval)

    def predict_proba(self, X: Rows) -> np.ndarray:
        """The probability of each of `classes_`, `(n, classes)`."""
        return shares(self._predicted(X), self.classes_)
