"""`MetaEmbedding`: features that were learned across groups, for whatever estimator comes next."""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..evaluation.features import features
from ..tasks.tables.reading import as_frame
from ..tasks.tables.targets import target_kind
from .classifier import MetaClassifier
from .grouped_rows import Rows, require_targets
from .predictor import MetaPredictor
from .regressor import MetaRegressor

__all__ = ["MetaEmbedding"]


class MetaEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer from rows to features that were learned across groups: those before the last layer of a network.

    The outer loop trains them such that a simple model of a group's few rows does well on them. The features of a
    row are the same in all groups.

    Arguments:
        estimator: an unfitted `MetaRegressor` or `MetaClassifier` whose algorithm has a network: `ridge`, `gaussian`,
            `protonet`, `maml`, ...; the last of its `hidden` widths is the number of features. `ridge` unless given,
            for regression, or for classes where `y` is text, truth values or exactly two values.
        random_state: that of the estimator; its own if this is `None`.

    Attributes:
        estimator_: the fitted estimator.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> import innerloop as il
        >>> rng = np.random.default_rng(0)
        >>> patient, X = np.repeat(range(30), 6), rng.normal(size=(180, 2))
        >>> y = np.sin(X[:, 0]) + rng.normal(size=30)[patient]
        >>> net = il.MetaRegressor(algorithm="ridge", hidden=(16, 4), steps=5)
        >>> embedding = il.MetaEmbedding(net).fit(X, y, groups=patient)
        >>> embedding.transform(X).shape, embedding.get_feature_names_out()[0]
        ((180, 4), 'metaembedding0')
    """

    def __init__(self, estimator: MetaPredictor | None = None, *, random_state: object = None) -> None:
        self.estimator = estimator
        self.random_state = random_state

    def fit(self, X: Rows, y: Rows, *, groups: Rows | None = None) -> Self:
        """Learn the features.

        Arguments:
            X: rows, see `MetaRegressor.fit`.
            y: targets that the features are to be good for.
            groups: the group of each row.

        Raises:
            UsageError: the algorithm has no network, or a parameter has no meaning.
            DataError: a column or a target cannot be used as it is.
        """
        require_targets(self, y)
        learner = self._learner_for(y)
        if self.random_state is not None:
            learner.set_params(random_state=check_random_state(self.random_state).randint(2**31 - 1))
        self.estimator_ = learner.fit(X, y, groups=groups)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(learner, name):
                setattr(self, name, getattr(learner, name))
        self._n_features_out = self._embedded(X).shape[1]
        return self

    def transform(self, X: Rows) -> np.ndarray:
        """The learned features `(n, F)` of rows `(n, columns)`."""
        check_is_fitted(self)
        return self._embedded(X)

    def _embedded(self, X: Rows) -> np.ndarray:
        """As `transform`, which scikit-learn wraps."""
        learner = self.estimator_
        schema = learner._stored.table_schema()
        frame = as_frame(learner._columns.table(learner._features(X)), reading=schema.reading)
        return features(learner.model_, torch.from_numpy(schema.encode(frame))).cpu().numpy()

    def _learner_for(self, y: Rows) -> MetaPredictor:
        """An unfitted copy of the estimator, or one for such targets."""
        if self.estimator is not None:
            copied: MetaPredictor = clone(self.estimator)
            return copied
        classes = np.ndim(y) == 1 and target_kind(pd.DataFrame({"y": np.asarray(y)}), "y") == "classification"
        return (MetaClassifier if classes else MetaRegressor)(algorithm="ridge")

    def __sklearn_tags__(self) -> object:
        """Targets are needed, gaps are understood, and features are double precision."""
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
