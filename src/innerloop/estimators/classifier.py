"""`MetaClassifier`: classification for many small groups, in the manner of scikit-learn."""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, column_or_1d

from ..errors import DataError, UsageError
from .adapted import AdaptedClassifier
from .grouped_rows import Rows, require_targets
from .outputs import Labels, labels, shares
from .predictor import MetaPredictor, Support

__all__ = ["MetaClassifier"]


class MetaClassifier(ClassifierMixin, MetaPredictor):  # type: ignore[misc] # scikit-learn ships no types
    """A classifier that learns across groups, and adapts to a new one from a few rows without fitting again.

    A class means the same in every group.

    Arguments:
        task: those of `MetaRegressor`, and so are all others.

    Attributes:
        classes_: the class labels.
        algorithm_, model_, notes_, n_features_in_, feature_names_in_: those of `MetaRegressor`.

    Example:
        >>> import numpy as np, innerloop as il
        >>> rng = np.random.default_rng(0)
        >>> user, x = np.repeat(range(30), 8), rng.normal(size=240)
        >>> label = np.where(x > rng.normal(size=30)[user], "above", "below")
        >>> model = il.MetaClassifier(algorithm="mixed", steps=50).fit(x[:, None], label, groups=user)
        >>> model.predict([[9.0], [-9.0]], support=([[0.5], [1.5]], ["below", "above"])).tolist()
        ['above', 'below']
    """

    kind = "classification"
    adapted_class = AdaptedClassifier

    def fit(self, X: Rows, y: Rows, *, groups: Rows | None = None) -> Self:
        """Learn across groups, then adapt to each by all of its rows.

        Arguments:
            X: see `MetaRegressor.fit`.
            y: `(n,)` class labels: text, whole numbers or truth values.
            groups: see `MetaRegressor.fit`.

        Returns:
            The estimator.

        Raises:
            DataError: a column or a target cannot be used as it is.
            UsageError: a parameter has no meaning.
            DivergedError: training came to no finite loss.
        """
        self._fit_rows(X, y, groups)
        self.classes_ = np.unique(column_or_1d(y))
        return self

    def partial_fit(
        self, X: Rows, y: Rows, *, groups: Rows | None = None, classes: Rows | None = None
    ) -> Self:
        """Add rows: each of their groups is adapted to all the rows it has by now; new groups become known.

        What was learned across groups stays as it is: `fit` learns it, and does so here if nothing was fitted yet.

        Arguments:
            X: as in `fit`.
            y: as in `fit`.
            groups: as in `fit`.
            classes: all class labels; the rows of the first call must hold each of them.

        Raises:
            UsageError: a class has no row, or a group was known when the model was saved, so that its rows are not
                here.
        """
        if classes is not None:
            seen = self.classes_ if hasattr(self, "_stored") else np.unique(np.asarray(y))
            if lost := [label for label in np.asarray(classes).tolist() if label not in seen.tolist()]:
                raise UsageError(
                    f"class {lost[0]!r} has no row in the first call, which learns across groups: give rows of it there"
                )
        return super().partial_fit(X, y, groups=groups)

    def predict(
        self,
        X: Rows,
        *,
        groups: Rows | None = None,
        support: Support | None = None,
        interval: float | None = None,
    ) -> Labels:
        """Class labels `(n,)` of rows of groups that were fitted, or of new ones; see `MetaRegressor.predict`.

        With `interval`, a tuple of the labels and of the prediction sets, `(n, classes)` truth values: the classes
        that a row may have; 0.9 holds the true one in 90 % of the rows of new groups.
        """
        found = self._predicted(X, groups, support, interval)
        return labels(found, self.classes_, interval)

    def predict_proba(
        self, X: Rows, *, groups: Rows | None = None, support: Support | None = None
    ) -> np.ndarray:
        """The probability of each of `classes_`, `(n, classes)`; see `MetaRegressor.predict`."""
        return shares(self._predicted(X, groups, support), self.classes_)

    def score(
        self,
        X: Rows,
        y: Rows,
        *,
        groups: Rows | None = None,
        support: Support | None = None,
        sample_weight: Rows | None = None,
    ) -> float:
        """The accuracy of `predict`, over all rows; see `evaluate` for scores of groups."""
        predicted = self.predict(X, groups=groups, support=support)
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> object:
        """Gaps are understood."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _checked_targets(self, y: Rows, *, fitting: bool = False) -> np.ndarray:
        require_targets(self, y)
        values = column_or_1d(y, warn=True)
        if values.dtype.kind != "O":
            assert_all_finite(values, input_name="y")
        gaps = pd.isna(values) | np.array([isinstance(v, str) and not v.strip() for v in values.tolist()])
        if gaps.any():
            raise DataError(f"y, row {int(np.argmax(gaps))}: there is no class label: leave the row out")
        check_classification_targets(values)
        return np.asarray(values)
