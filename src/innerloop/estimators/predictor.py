"""Fitting, predicting, adapting and scoring, as `MetaRegressor` and `MetaClassifier` share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from ..errors import DataError, UsageError
from ..evaluation import Evaluation, evaluate
from ..tasks.support import SupportSize
from ..tasks.tables.cells import task_ids
from ..tasks.tables.reading import as_frame
from ..tasks.tables.table import from_schema
from .adapted import AdaptedEstimator
from .estimator import MetaEstimator
from .grouped_rows import Rows, given_groups

__all__ = ["MetaPredictor"]

Support = Sequence[object]  # (X, y) of one group, or (X, y, groups)


class MetaPredictor(MetaEstimator):
    """See `MetaRegressor`."""

    adapted_class: ClassVar[type[AdaptedEstimator]]

    def fit(self, X: Rows, y: Rows, *, groups: Rows | None = None) -> Self:
        """Learn across groups, then adapt to each by all of its rows.

        Arguments:
            X: `(n, F)` rows: a frame of pandas, polars or pyarrow, whose columns may hold numbers, names, dates and
                gaps, or an array of numbers.
            y: `(n,)` targets.
            groups: `(n,)` the group of each row: the patient, school or machine. Not needed where `task` names a
                column of X.

        Returns:
            The estimator.

        Raises:
            DataError: a column or a target cannot be used as it is.
            UsageError: a parameter has no meaning.
            DivergedError: training came to no finite loss.
        """
        return self._fit_rows(X, y, groups)

    def partial_fit(self, X: Rows, y: Rows, *, groups: Rows | None = None) -> Self:
        """Add rows: each of their groups is adapted to all the rows it has by now; new groups become known.

        What was learned across groups stays as it is: `fit` learns it, and does so here if nothing was fitted yet.

        Arguments:
            X: as in `fit`.
            y: as in `fit`.
            groups: as in `fit`.

        Raises:
            UsageError: a group was known when the model was saved, so that its rows are not here.
        """
        if not hasattr(self, "_stored"):
            return self.fit(X, y, groups=groups)
        frame = self._columns.table(self._features(X), self._checked_targets(y), groups)
        own = dict.fromkeys(self._columns.groups_of(frame))
        kept = set() if self._rows is None else {*self._columns.groups_of(self._rows)}
        if lost := [name for name in own if name in self._stored.tasks and name not in kept]:
            raise UsageError(
                f"group {lost[0]!r} was adapted to rows that a model directory does not hold: predict(X, support=) "
                "takes all of its rows"
            )
        rows = frame if self._rows is None else pd.concat([self._rows, frame], ignore_index=True)
        changed = np.isin(self._columns.groups_of(rows), [*own])
        self._rows, self._stored = rows, self._stored.knowing(rows[changed])
        return self

    def adapt(self, X: Rows, y: Rows, *, groups: Rows | None = None) -> Any:
        """Adapt to a new group by its labelled rows; this estimator does not change.

        Arguments:
            X: `(n, F)` rows of one group, or of several with `groups`.
            y: `(n,)` targets.
            groups: `(n,)` the group of each row; then a dict from group to fitted estimator is returned.

        Returns:
            A fitted estimator of the group, with `predict` and `score`; its `fit` adapts to another group.

        Example:
            >>> import numpy as np, innerloop as il
            >>> X, ids = np.arange(40.0).reshape(-1, 1), np.repeat(range(8), 5)
            >>> model = il.MetaRegressor(algorithm="mixed").fit(X, np.sin(ids) + X[:, 0], groups=ids)
            >>> patient = model.adapt([[1.0], [2.0]], [5.0, 6.0])
            >>> patient.predict([[3.0]]).shape
            (1,)
        """
        check_is_fitted(self)
        y = self._checked_targets(y)
        if groups is None:
            return self.adapted_class(self).fit(X, y)
        owners = given_groups(groups, len(y))
        found, codes = np.unique(owners, return_inverse=True)
        frame = self._columns.table(self._features(X), y, None if self._columns.task_in_x else owners)
        adapted = self._stored.adapt_frame(frame.assign(**{self._columns.task: owners}))
        names = task_ids(pd.DataFrame({"group": found}), "group")
        rows = np.bincount(codes)
        return {
            group.item() if isinstance(group, np.generic) else group: self.adapted_class(self)._of(
                adapted, str(name), int(count)
            )
            for group, name, count in zip(found, names, rows, strict=True)
        }

    def evaluate(
        self, X: Rows, y: Rows, *, groups: Rows | None = None, n_support: int | str | None = None
    ) -> Evaluation:
        """Score on groups that were not fitted: each is adapted to some of its rows and asked for the others.

        Arguments:
            X: rows of new groups.
            y: their targets.
            groups: the group of each row, where X does not have it.
            n_support: rows a group to adapt to, as in training unless given; ten draws of them.

        Returns:
            A value a group, means and 95 % intervals over groups; see `innerloop.Evaluation`.

        Raises:
            DataError: a group was fitted, or none has two rows.

        Example:
            >>> import numpy as np, innerloop as il
            >>> X, ids = np.arange(60.0).reshape(-1, 1), np.repeat(range(12), 5)
            >>> y, old = np.sin(ids) + X[:, 0] / 9, ids < 9
            >>> model = il.MetaRegressor(algorithm="mixed").fit(X[old], y[old], groups=ids[old])
            >>> len(model.evaluate(X[~old], y[~old], groups=ids[~old]).ids)
            3
        """
        check_is_fitted(self)
        frame = self._columns.table(self._features(X), self._checked_targets(y), groups)
        own = dict.fromkeys(self._columns.groups_of(frame))
        if known := [name for name in own if name in self._stored.tasks]:
            raise DataError(f"group {known[0]!r} was fitted, so its score says nothing: give new groups")
        schema, support = self._stored.table_schema(), self._stored.support
        if n_support is not None:
            support = SupportSize.parse(n_support, None, self.support)
        assert support is not None
        source = from_schema(as_frame(frame, reading=schema.reading), schema, None, support)
        return evaluate(self._stored.model, source)

    def _predicted(
        self, X: Rows, groups: Rows | None, support: Support | None, interval: float | None = None
    ) -> pd.DataFrame:
        """What `predict_frame` adds to the rows of X."""
        check_is_fitted(self)
        self._require_interval(interval)
        frame = self._columns.table(self._features(X), None, groups)
        given = None if support is None else self._support(support, grouped=groups is not None)
        if self.on_unknown_task == "raise":
            self._refuse_unknown(frame, given)
        table = frame if given is None else pd.concat([given, frame], ignore_index=True)
        found = self._stored.predict_frame(table, interval=interval)
        return found.iloc[len(table) - len(frame) :, table.shape[1] :]

    def _support(self, support: Support, *, grouped: bool) -> pd.DataFrame | None:
        """Labelled rows as a table; `None` where there are none."""
        if not isinstance(support, tuple | list) or len(support) not in (2, 3):
            raise UsageError(
                "support is (X, y) of one group, or (X, y, groups): labelled rows of the groups asked for"
            )
        X, y, groups = (*support, None)[:3]
        if not self._columns.task_in_x and grouped != (groups is not None):
            raise UsageError(
                "give groups= of X and groups in support=(X, y, groups), or neither for one new group"
            )
        return self._columns.table(self._features(X), self._checked_targets(y), groups) if len(X) else None

    def _refuse_unknown(self, frame: pd.DataFrame, given: pd.DataFrame | None) -> None:
        """Refuse rows of groups that nothing is known of."""
        known = {*self._stored.tasks, *([] if given is None else self._columns.groups_of(given))}
        for name in dict.fromkeys(self._columns.groups_of(frame)):
            if name not in known:
                raise DataError(
                    f"group {name!r} has no row in fit: give labelled rows of it, support=(X, y, groups), or take the "
                    "prediction for any group, on_unknown_task='base'"
                )
