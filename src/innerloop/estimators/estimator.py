"""What all estimators share: their parameters, and how rows become a trained model."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from ..errors import UsageError, check_known
from ..evaluation.conformal import needed_tasks
from ..inner.model import Model
from .fitting import AUTO, Training
from .grouped_rows import Columns, Rows, is_frame, rows_of
from .model_directory import ModelDirectory

__all__ = ["MetaEstimator"]


class MetaEstimator(ModelDirectory, ABC):
    """What all estimators share. Its parameters are explained at `MetaRegressor`."""

    def __init__(
        self,
        task: str | None = None,
        *,
        algorithm: str = AUTO,
        module: nn.Module | None = None,
        n_support: int | str | None = None,
        support: str = "random",
        categorical: Sequence[str] = (),
        hidden: Sequence[int] | None = None,
        inner_lr: float | None = None,
        inner_steps: int | None = None,
        options: Mapping[str, object] | None = None,
        steps: int | None = None,
        meta_lr: float | None = None,
        meta_batch_size: int | None = None,
        validation_fraction: float = 0.15,
        on_unknown_task: str = "base",
        random_state: object = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.task = task
        self.algorithm = algorithm
        self.module = module
        self.n_support = n_support
        self.support = support
        self.categorical = categorical
        self.hidden = hidden
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.options = options
        self.steps = steps
        self.meta_lr = meta_lr
        self.meta_batch_size = meta_batch_size
        self.validation_fraction = validation_fraction
        self.on_unknown_task = on_unknown_task
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    @property
    def model_(self) -> Model:
        """The learner with its meta-parameters, for the rest of Innerloop."""
        check_is_fitted(self)
        return self._stored.model

    def _fit_rows(self, X: Rows, y: Rows, groups: Rows | None) -> Self:
        """Train on rows and adapt to their groups."""
        check_known("on_unknown_task", self.on_unknown_task, ("base", "raise"))
        frame = self._features(X, reset=True)
        targets = self._checked_targets(y, fitting=True)
        names = list(y.columns) if hasattr(y, "columns") else [getattr(y, "name", None)]
        width = 1 if targets.ndim == 1 else targets.shape[1]
        self._columns = Columns.of(frame, names * (width // len(names)), groups, task=self.task)
        if not self._columns.grouped:
            warnings.warn(
                "all rows are one group, so nothing is learned about how groups differ: give the group of each row, "
                f"fit(X, y, groups=ids), or name a column of X, {type(self).__name__}(task='patient')",
                stacklevel=3,
            )
        self._rows = self._columns.table(frame, targets, groups)
        self._stored, tasks = self._training().fitted(self._rows, self._columns)
        self.algorithm_ = str(self._stored.config["learner"]["algorithm"])
        self.notes_ = tasks.notes
        return self

    def _training(self) -> Training:
        """The parameters as a training."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        options = {"hidden": self.hidden, "inner_lr": self.inner_lr, "inner_steps": self.inner_steps}
        return Training(
            kind=self.kind,
            algorithm=self.algorithm,
            options={**options, **(self.options or {})},
            module=self.module,
            n_support=self.n_support,
            support=self.support,
            categorical=tuple(self.categorical),
            validation_fraction=self.validation_fraction,
            steps=self.steps,
            meta_lr=self.meta_lr,
            meta_batch_size=self.meta_batch_size,
            seed=seed,
            device=self.device,
            verbose=self.verbose,
        )

    def _require_interval(self, level: float | None) -> None:
        """Refuse intervals that the validation groups are too few for.

        Raises:
            UsageError: they are, or the level is no share.
        """
        calibration = self._stored.calibration
        count = calibration.n_tasks if calibration else 0
        if level is not None and count < (needed := needed_tasks(level)):
            every = sum(len(ids) for ids in (self._stored.config["splits"] or {}).values())
            # of 20 groups, 0.45 are 9; at least as many have to be left to learn from
            share = math.ceil(100 * needed / every) / 100 if every >= 2 * needed else None
            enough = "" if share is None else f" (to {share} of the {every} groups)"
            raise UsageError(
                f"interval={level} needs {needed} validation groups or more, and the model was calibrated on {count}: "
                f"raise validation_fraction{enough}, or ask for a smaller share"
            )

    @abstractmethod
    def _checked_targets(self, y: Rows, *, fitting: bool = False) -> np.ndarray:
        """Targets that can be learned, `(n,)` or `(n, C)`, for `fit` or for what was fitted."""

    def _features(self, X: Rows, *, reset: bool = False) -> pd.DataFrame:
        """X as a frame, whose columns are those of fit."""
        frame = rows_of(X, least=2 if reset else 1)
        named = frame if is_frame(X) else np.empty(frame.shape, dtype=np.int8)
        validate_data(self, named, reset=reset, skip_check_array=True)
        if reset:
            self._names = tuple(frame.columns)
        return frame.set_axis(list(self._names), axis=1)
