"""Cross-validation that asks the question of many small groups: how well is a new group predicted from a few rows?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import BaseCrossValidator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import check_consistent_length

from ..errors import DataError, UsageError
from .grouped_rows import Rows, given_groups
from .predictor import MetaPredictor

__all__ = ["SupportQuerySplit", "cross_val_adapt"]

Index = NDArray[np.int64]


class _Parts(NamedTuple):
    """Positions of rows: of the training groups, and of the held-out ones support and query."""

    training: Index
    support: Index
    query: Index


class SupportQuerySplit(BaseCrossValidator):  # type: ignore[misc] # scikit-learn ships no types
    """A splitter that holds groups out and gives a few rows of each back, to train on; the rest is to be predicted.

    The training part of a split is all rows of the training groups and `n_support` rows of each held-out group; the
    test part is the other rows of the held-out groups. Every group is held out once. `GroupKFold` is the same without
    a row of the held-out groups.

    Arguments:
        n_support: rows of a held-out group to train on; one fewer than it has, where it has no more.
        n_splits: parts that the groups are divided into.
        random_state: of the parts and of the rows; the same for every estimator unless `None`.

    Example:
        >>> ids = np.repeat(["a", "b", "c"], 4)
        >>> for train, test in SupportQuerySplit(1, n_splits=3).split(ids, groups=ids):
        ...     print(len(train), ids[test])
        9 ['c' 'c' 'c']
        9 ['b' 'b' 'b']
        9 ['a' 'a' 'a']
    """

    # scikit-learn's way to say that `split` takes groups
    __metadata_request__split = {"groups": True}  # noqa: RUF012

    def __init__(self, n_support: int = 5, *, n_splits: int = 5, random_state: object = 0) -> None:
        self.n_support = n_support
        self.n_splits = n_splits
        self.random_state = random_state

    def get_n_splits(self, X: Rows = None, y: Rows = None, groups: Rows = None) -> int:
        """`n_splits`, whatever the rows."""
        return self.n_splits

    def split(self, X: Rows, y: Rows = None, groups: Rows = None) -> Iterator[tuple[Index, Index]]:
        """Positions of the training rows and of the test rows, for each split.

        Arguments:
            X: rows, of which the number counts.
            y: not used.
            groups: the group of each row.

        Raises:
            DataError: there are no groups, or fewer than splits.
        """
        for training, support, query in self.parts(X, groups):
            yield np.sort(np.concatenate([training, support])), query

    def parts(self, X: Rows, groups: Rows) -> Iterator[_Parts]:
        """Positions of the rows of training groups, and of support and query rows of the others, for each split."""
        if self.n_support < 0 or self.n_splits < 2:
            raise UsageError(
                f"n_support={self.n_support}, n_splits={self.n_splits}: give no negative number of rows and two splits "
                "or more"
            )
        if groups is None:
            raise DataError("splits are made of groups: give groups=, the group of each row")
        check_consistent_length(X, groups)
        names, codes = np.unique(given_groups(groups, len(groups)), return_inverse=True)
        if len(names) < self.n_splits:
            raise DataError(
                f"n_splits={self.n_splits}, and there are {len(names)} groups: ask for fewer splits"
            )
        random = check_random_state(self.random_state)
        for held in np.array_split(random.permutation(len(names)), self.n_splits):
            out = np.isin(codes, held)
            # random ranks within each group: the first ones are support
            order = random.permutation(len(codes))
            rank = np.empty(len(codes), dtype=np.int64)
            by_group = order[np.argsort(codes[order], kind="stable")]
            sizes = np.bincount(codes, minlength=len(names))
            rank[by_group] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            inside = out & (rank < np.minimum(self.n_support, sizes - 1)[codes])
            yield _Parts(*(np.flatnonzero(part) for part in (~out, inside, out & ~inside)))


def cross_val_adapt(
    estimator: Any,
    X: Rows,
    y: Rows,
    *,
    groups: Rows | None = None,
    n_support: int = 5,
    n_splits: int = 5,
    scoring: object = None,
    random_state: object = 0,
) -> NDArray[np.float64]:
    """Score how well new groups are predicted from a few rows of each, in every split of `SupportQuerySplit`.

    A `MetaRegressor` or `MetaClassifier`, also as the last step of a pipeline, is fitted to the training groups and
    adapted to the support rows of a held-out group. Any other estimator of scikit-learn is fitted to the training
    groups' rows and all support rows together. Both are asked for the same query rows.

    Arguments:
        estimator: the estimator, which is not changed.
        X: rows.
        y: targets.
        groups: the group of each row; not needed for an estimator whose `task` is a column of X.
        n_support: rows of a held-out group that are known; 0 for none.
        n_splits: parts that the groups are divided into.
        scoring: as in scikit-learn; the `score` of the estimator unless given.
        random_state: of the parts and of the support rows; the same for every estimator unless `None`.

    Returns:
        A score for each split, over all query rows in it, `(n_splits,)`.

    Raises:
        DataError: there are no groups, or fewer than splits.

    Example:
        >>> import innerloop as il
        >>> from sklearn.linear_model import LinearRegression
        >>> rng = np.random.default_rng(0)
        >>> ids, X = np.repeat(range(30), 6), rng.normal(size=(180, 1))
        >>> y = X[:, 0] + 3 * rng.normal(size=30)[ids]
        >>> ours = cross_val_adapt(il.MetaRegressor(algorithm="mixed"), X, y, groups=ids, n_support=2)
        >>> line = cross_val_adapt(LinearRegression(), X, y, groups=ids, n_support=2)
        >>> bool(line.max() < 0.5 < 0.9 < ours.min())
        True
    """
    *front, last = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    ours = isinstance(last, MetaPredictor)
    task = last.task if ours else None
    if groups is None and task is not None:
        groups = _safe_indexing(X, task, axis=1)
    splitter = SupportQuerySplit(n_support, n_splits=n_splits, random_state=random_state)
    scorer = check_scoring(estimator, scoring=scoring)
    scores = []
    for training, support, query in splitter.parts(X, groups):
        if not ours:
            known = np.sort(np.concatenate([training, support]))
            fitted = clone(estimator).fit(_safe_indexing(X, known), _safe_indexing(y, known))
            scores.append(scorer(fitted, _safe_indexing(X, query), _safe_indexing(y, query)))
            continue
        rows = _Taken(X, y, None if task is not None else groups)
        scores.append(_score_adapted(front, last, scorer, rows, _Parts(training, support, query)))
    return np.array(scores, dtype=np.float64)


class _Taken(NamedTuple):
    """Rows with their targets and, where X does not have them, groups."""

    X: Rows
    y: Rows
    groups: Rows | None

    def at(self, index: Index) -> _Taken:
        """Some of the rows."""
        return _Taken(*(None if part is None else _safe_indexing(part, index) for part in self))


def _score_adapted(front: list[Any], last: MetaPredictor, scorer: Any, rows: _Taken, parts: _Parts) -> float:
    """The score of a meta-learner, behind the steps of a pipeline, that gets the support rows when it predicts."""
    training, support, query = (rows.at(index) for index in parts)
    for step in (clone(each) for each in front if each not in (None, "passthrough")):
        training = training._replace(X=step.fit_transform(training.X, training.y))
        query = query._replace(X=step.transform(query.X))
        if len(parts.support):
            support = support._replace(X=step.transform(support.X))
    learner = clone(last).fit(training.X, training.y, groups=training.groups)
    known = tuple(part for part in support if part is not None)
    given = known if len(parts.support) else None
    return float(scorer(_Informed(learner, query.groups, given), query.X, query.y))


class _Informed:
    """A fitted meta-learner that predicts rows of new groups with the support rows that they come with."""

    def __init__(self, learner: MetaPredictor, groups: Rows | None, support: tuple[Rows, ...] | None) -> None:
        self._learner, self._known = learner, {"groups": groups, "support": support}

    def __getattr__(self, name: str) -> object:
        """What the meta-learner has; it predicts and scores with what is known."""
        found = getattr(self._learner, name)
        if name not in ("predict", "predict_proba", "score"):
            return found

        @wraps(found)
        def informed(*arguments: Any, **options: Any) -> Any:
            return found(*arguments, **options, **self._known)

        return informed
