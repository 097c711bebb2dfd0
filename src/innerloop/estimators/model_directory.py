"""Estimators as model directories, which `innerloop predict` reads too."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..errors import ModelFileError, UsageError
from ..storage.load import load
from ..storage.stored import Stored
from .grouped_rows import Columns

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from ..tasks.tables.schema import Schema

__all__ = ["ModelDirectory"]

_PLAIN = (str, bool, int, float, type(None))
_LABELS = ("int64", "float64", "bool", "str", "object")


class ModelDirectory(BaseEstimator):  # type: ignore[misc] # scikit-learn ships no types
    """Saving and loading of an estimator."""

    kind: ClassVar[str | None] = None
    notes_: tuple[str, ...]
    _stored: Stored
    _columns: Columns
    _names: tuple[str, ...]
    _rows: pd.DataFrame | None

    def save(self, directory: str | Path, *, known_groups: bool = True, replace: bool = False) -> Path:
        """Write a model directory: `load` reads it, and `innerloop predict`, `adapt` and `inspect` do.

        It holds the names of the groups of fit and what each is adapted to, unless `known_groups` is false. That is no
        row of the table, but for a Gaussian process, which is adapted to the features of a group's rows themselves.

        Arguments:
            directory: where; it must be missing or empty, or a model directory if `replace` is given.
            known_groups: keep what the groups of fit are adapted to, so that they are predicted as before.
            replace: replace a model directory that is there.

        Returns:
            The directory.

        Raises:
            UsageError: the directory holds something else.
            ResourceError: it cannot be written.

        Example:
            >>> import tempfile, numpy as np, innerloop as il
            >>> X, ids = np.arange(40.0).reshape(-1, 1), np.repeat(range(8), 5)
            >>> model = il.MetaRegressor(algorithm="mixed").fit(X, np.sin(ids) + X[:, 0], groups=ids)
            >>> path = model.save(Path(tempfile.mkdtemp()) / "sites")
            >>> again = il.MetaRegressor.load(path)
            >>> bool(np.allclose(again.predict(X, groups=ids), model.predict(X, groups=ids)))
            True
        """
        check_is_fitted(self)
        stored = self._stored if known_groups else self._stored.forgetting()
        return stored.save(directory, settings={"estimator": self._described()}, replace=replace)

    def save_pretrained(self, directory: str | Path, *, replace: bool = False) -> Path:
        """`save` by the name that it has in other libraries."""
        return self.save(directory, replace=replace)

    @classmethod
    def load(cls, directory: str | Path, *, module: nn.Module | None = None, device: str = "cpu") -> Self:
        """Read a model directory of `save`, or of `innerloop train`.

        Arguments:
            directory: where it is.
            module: the network, where it was trained with one of your own.
            device: where it predicts.

        Returns:
            The fitted estimator. It has no rows of fit, so `partial_fit` takes new groups only.

        Raises:
            ModelFileError: it is no model directory, or a damaged one.
            UsageError: it predicts something else, or was not trained on a table with a task column.
        """
        stored = load(directory, module=module, device=device)
        schema = stored.table_schema()
        if stored.kind != "run" or cls.kind not in (None, schema.kind) or schema.n_way:
            what = f"{stored.kind}, {schema.kind}{' of classes of each task' if schema.n_way else ''}"
            raise UsageError(f"{directory} ({what}) is no {cls.__name__}: load it with innerloop.load")
        said = stored.config["settings"].get("estimator")
        try:
            estimator = cls(**_parameters(cls, said)) if said else cls(str(schema.task))
            estimator._restore(stored, schema, said)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{directory}: what it says of the estimator is damaged: {error}") from None
        return estimator

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, module: nn.Module | None = None) -> Self:
        """`load` by the name that it has in other libraries."""
        return cls.load(directory, module=module)

    def _described(self) -> dict[str, object]:
        """What `load` needs beside the model, as plain data."""
        parameters = self.get_params(deep=False)
        described = {
            "parameters": {name: value for name, value in parameters.items() if _is_plain(value)},
            "columns": list(self._names),
            "named": hasattr(self, "feature_names_in_"),
            "grouped": self._columns.grouped,
        }
        if hasattr(self, "classes_"):
            kind = self.classes_.dtype
            described["labels"] = "str" if kind.kind == "U" else str(kind)
        return described

    def _restore(self, stored: Stored, schema: Schema, said: dict[str, Any] | None) -> None:
        """The attributes of a fitted estimator."""
        features, task = tuple(column.name for column in schema.columns), str(schema.task)
        said = said or {"columns": [*features, task], "named": True, "grouped": True, "labels": "str"}
        targets = tuple(column.name for column in schema.target_columns)
        self._stored, self._rows = stored, None
        self._names = tuple(map(str, said["columns"]))
        self._columns = Columns(features, task, targets, task in self._names, bool(said["grouped"]))
        self.n_features_in_ = len(self._names)
        if said["named"]:
            self.feature_names_in_ = np.array(self._names, dtype=object)
        if schema.kind == "classification":
            self.classes_ = _labels(schema.classes, said["labels"])
        self.algorithm_, self.notes_ = str(stored.config["learner"]["algorithm"]), ()


def _is_plain(value: object) -> bool:
    """Whether JSON can hold it."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(entry) for name, entry in value.items())
    return isinstance(value, _PLAIN)


def _parameters(cls: type, said: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a directory names, of which the estimator must know each."""
    known = inspect.signature(cls).parameters
    if odd := sorted(set(said["parameters"]) - set(known)):
        raise ValueError(f"the parameters {odd} are unknown")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in said["parameters"].items()}


def _labels(classes: tuple[str, ...], kind: str) -> np.ndarray:
    """Class labels as they were before they became text, in the order of scikit-learn."""
    if kind not in _LABELS and not (kind.startswith(("int", "uint", "float")) and kind[-1].isdigit()):
        raise ValueError(f"labels of type {kind!r}")
    if kind == "bool":
        return np.sort(np.array([label == "True" for label in classes]))
    if kind in ("str", "object"):
        return np.sort(np.array(classes, dtype=object if kind == "object" else str))
    return np.sort(np.array([float(label) for label in classes]).astype(kind))
