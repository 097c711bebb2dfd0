"""`MetaRegressor`: regression for many small groups, in the manner of scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import assert_all_finite, check_array

from ..errors import DataError
from .adapted import AdaptedRegressor
from .grouped_rows import Rows, require_targets
from .outputs import Values, values
from .predictor import MetaPredictor, Support

__all__ = ["MetaRegressor"]


class MetaRegressor(RegressorMixin, MetaPredictor):  # type: ignore[misc] # scikit-learn ships no types
    """A regressor that learns across groups, and adapts to a new one from a few rows without fitting again.

    Groups are patients, schools, machines: whatever has few rows of its own and is like others. Statisticians call
    the prediction for a new group dynamic prediction, or BLUP for a linear mixed model; others partial pooling,
    empirical Bayes or personalisation.

    Arguments:
        task: a column of X that says the group of each row; otherwise give `groups=` to the methods.
        algorithm: `auto`, which lets the candidates that fit race on validation groups, or a name: `mixed` (linear
            mixed model), `maml`, `ridge`, ...; see `innerloop list algorithms`.
        module: a `torch.nn.Module` in place of the built-in network; `auto` is `maml` then.
        n_support: rows a group that training adapts to, a number or a range such as `1-8`: about as many as a new
            group has when it is predicted. 5 unless given, 3 a class for classes, fewer for small groups.
        support: which rows these are: `random`, or `order:COLUMN`, so that later rows are predicted from earlier ones.
        categorical: columns of X whose numbers are names.
        hidden: hidden widths of the built-in network.
        inner_lr: step size of adaptation, of algorithms that adapt by gradients.
        inner_steps: their number of steps.
        options: further arguments of the algorithm and its network, by name.
        steps: meta-updates.
        meta_lr: their step size.
        meta_batch_size: groups a meta-update.
        validation_fraction: share of the groups that training is stopped by, and the algorithm chosen; 0 for none.
        on_unknown_task: what rows get whose group is in no row of fit, and has no support: `base`, the prediction for
            any group, or `raise`.
        random_state: of the validation groups, the initial parameters and the episodes.
        device: `auto`, `cpu`, `cuda`, ...
        verbose: 1 prints the loss ten times.

    Attributes:
        algorithm_: the name of the algorithm that was trained.
        model_: the learner with its meta-parameters, for the rest of Innerloop.
        notes_: what was understood of the columns, one sentence each.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
        >>> import numpy as np, innerloop as il
        >>> rng = np.random.default_rng(0)
        >>> patient, dose = np.repeat(range(30), 6), rng.normal(size=180)
        >>> score = dose + rng.normal(size=30)[patient] + 0.1 * rng.normal(size=180)
        >>> model = il.MetaRegressor(algorithm="mixed").fit(dose[:, None], score, groups=patient)
        >>> new = model.adapt([[0.0], [1.0]], [2.0, 3.0])  # a patient with two visits
        >>> bool(abs(new.predict([[2.0]])[0] - 4) < 0.2)
        True
    """

    kind = "regression"
    adapted_class = AdaptedRegressor

    def predict(
        self,
        X: Rows,
        *,
        groups: Rows | None = None,
        support: Support | None = None,
        interval: float | None = None,
    ) -> Values:
        """Predict rows of groups that were fitted, or of new ones.

        Rows of a fitted group are predicted by what it was adapted to. A new group is adapted to its rows in
        `support`; so is a fitted one that has rows there, to these alone. Without any, the prediction is that for any
        group, unless `on_unknown_task` is `raise`.

        Arguments:
            X: `(n, F)` rows.
            groups: `(n,)` the group of each row, where X does not have it; without it, rows are of no known group.
            support: labelled rows `(X, y, groups)` of the groups asked for, or `(X, y)` of one new group.
            interval: such as 0.9 for intervals that hold the target in 90 % of the rows of new groups: conformal, a
                group as one unit, by the validation groups; 9 of them or more for 0.9.

        Returns:
            Values `(n,)`, or `(n, C)` of several targets. With `interval`, a tuple of the values, the lower and the
            upper ends, which are missing (NaN) where too few validation groups have so many support rows.

        Raises:
            DataError: a value cannot be used as it is, or a group is unknown and `on_unknown_task` is `raise`.
            UsageError: an argument has no meaning, or the validation groups are too few for the interval.

        Example:
            >>> import numpy as np, innerloop as il
            >>> rng = np.random.default_rng(0)
            >>> ids, X = np.repeat(range(80), 5), rng.normal(size=(400, 1))
            >>> y = X[:, 0] + rng.normal(size=80)[ids] + 0.1 * rng.normal(size=400)
            >>> model = il.MetaRegressor(algorithm="mixed").fit(X, y, groups=ids)
            >>> value, lower, upper = model.predict([[0.0]], support=([[1.0]], [3.0]), interval=0.9)
            >>> bool(lower < value < upper)
            True
        """
        return values(self._predicted(X, groups, support, interval), self._columns.targets, interval)

    def score(
        self,
        X: Rows,
        y: Rows,
        *,
        groups: Rows | None = None,
        support: Support | None = None,
        sample_weight: Rows | None = None,
    ) -> float:
        """The coefficient of determination R² of `predict`, over all rows; see `evaluate` for scores of groups."""
        predicted = self.predict(X, groups=groups, support=support)
        return float(r2_score(y, predicted, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> object:
        """Gaps are understood, and several targets."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    def _checked_targets(self, y: Rows, *, fitting: bool = False) -> np.ndarray:
        require_targets(self, y)
        found = check_array(
            y, ensure_2d=False, dtype="numeric", input_name="y", ensure_all_finite="allow-nan"
        )
        values = np.asarray(found)
        # NaN of several targets: a row is used for those that it knows
        several = values.ndim == 2 and values.shape[1] > 1
        if not several:
            assert_all_finite(values, input_name="y")
        if several and values.dtype.kind == "f":
            self._refuse_gaps(np.isnan(values), fitting=fitting)
        return values

    def _refuse_gaps(self, unknown: np.ndarray, *, fitting: bool) -> None:
        """Refuse rows without a target, and rows with some where those of fit had all."""
        if (empty := unknown.all(axis=1)).any():
            raise DataError(f"y, row {int(empty.argmax())}: there is no target: leave the row out")
        some = unknown.any(axis=1)
        if some.any() and not fitting and not self._stored.table_schema().partial:
            raise DataError(
                f"y, row {int(some.argmax())}: a target is missing, and every row of fit had all: fill it in, leave "
                "the row out, or give fit rows with some of the targets too"
            )
