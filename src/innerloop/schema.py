"""What the columns of a table mean: how a frame becomes arrays, and predictions become columns again.

Everything fitted here (means, scales, levels, classes) comes from meta-train rows and is plain data: a model
directory holds it as JSON and applies it unchanged to rows nobody has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from .errors import DataError, ModelFileError, UsageError
from .frames import (
    absent_columns,
    distinct,
    is_missing,
    is_number,
    listed,
    match_values,
    parse,
    read_table,
    refuse_odd,
    truth,
    where,
)
from .sources import Targets

__all__ = ["KINDS", "Column", "Schema", "labels", "read_table", "target_kind"]

KINDS = ("regression", "classification")

_MAX_LEVELS = 100


@dataclass(frozen=True)
class Column:
    """What one column of features means.

    Arguments:
        name: its name.
        kind: `number` (standardised), `flag` (0 or 1) or `category` (one column a level, 0 in all
            for a level that meta-train does not have).
        mean: mean over meta-train; a gap is filled with it.
        scale: standard deviation over meta-train, 1 for a constant column.
        levels: of a category.
        missing: meta-train has gaps, so an indicator column follows.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0
    levels: tuple[str, ...] = ()
    missing: bool = False

    @property
    def width(self) -> int:
        """Features it becomes."""
        return len(self.levels) if self.kind == "category" else 1 + self.missing


@dataclass(frozen=True)
class Schema:
    """What the columns of a table mean, fitted on meta-train rows.

    Arguments:
        task: the task column; `None` for a table of classes.
        target: the target column.
        kind: `regression` or `classification`.
        columns: the features.
        classes: labels as text; class number `i` is `classes[i]`.
        target_mean: of meta-train (regression).
        target_scale: standard deviation of the meta-train targets (regression).

    Example:
        >>> frame = pd.DataFrame({"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]})
        >>> schema = Schema.fit(frame, task="site", target="risk")
        >>> schema.kind, schema.n_features, schema.encode(frame).shape
        ('regression', 1, (4, 1))
        >>> schema.decode(schema.encode_target(frame))["prediction"].round(6).tolist()
        [0.1, 0.2, 0.4, 0.9]
    """

    task: str | None
    target: str
    kind: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    target_mean: float = 0.0
    target_scale: float = 1.0

    @staticmethod
    def fit(
        frame: pd.DataFrame,
        *,
        task: str | None,
        target: str,
        features: Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        kind: str | None = None,
        categorical: Sequence[str] = (),
        classes: Sequence[str] | None = None,
    ) -> Schema:
        """Find out what the columns mean.

        Arguments:
            frame: meta-train rows.
            task: the task column, or `None`.
            target: the target column; rows without a target count for the features only.
            features: columns to use; all but task and target unless given.
            ignore: columns not to use.
            kind: `regression` or `classification`; found out unless given: text, truth values or exactly two
                values are classes, other numbers are not.
            categorical: columns whose values are names, numbers among them too.
            classes: labels, where more are known than these rows hold.

        Returns:
            The schema.

        Raises:
            DataError: a column is missing or holds what it cannot hold.
            UsageError: an argument has no meaning.
        """
        used = _choose(
            frame, task=task, target=target, features=features, ignore=ignore, categorical=categorical
        )
        columns = tuple(_fit_column(frame, name, task, name in categorical) for name in used)
        kind = target_kind(frame, target, kind, task=task)
        if kind == "classification":
            known = tuple(classes if classes is not None else labels(frame, target))
            if len(known) < 2:
                found = repr(known[0]) if known else "none"
                raise DataError(f"target {target!r} has one class or none ({found}): two or more are needed")
            return Schema(task, target, kind, columns, known)
        values = _numbers(frame, target, task)
        values = values[~np.isnan(values)]
        if not len(values):
            raise DataError(f"target {target!r} has no value: give rows with a target")
        mean, scale = _moments(values)
        if scale == 0.0:
            raise DataError(
                f"target {target!r} is {values[0]:g} in every meta-train row: there is nothing to learn; "
                "name another target"
            )
        return Schema(task, target, kind, columns, (), mean, scale)

    @property
    def n_features(self) -> int:
        """Features `F` that the columns become."""
        return sum(column.width for column in self.columns)

    @property
    def n_outputs(self) -> int:
        """Outputs a model needs."""
        return len(self.classes) if self.kind == "classification" else 1

    @property
    def targets(self) -> Targets:
        """What the encoded targets are."""
        if self.kind == "classification":
            return Targets(self.kind, self.n_outputs)
        return Targets(self.kind, 1, (self.target_scale,), (1.0,))

    def labelled(self, frame: pd.DataFrame) -> np.ndarray:
        """Rows with a target, `(n,)` bool; none where the frame has no such column."""
        if self.target not in frame:
            return np.zeros(len(frame), dtype=bool)
        return ~is_missing(frame[self.target])

    def gaps(self, frame: pd.DataFrame) -> dict[str, int]:
        """Columns that are complete in meta-train but not here, and how many gaps `encode` fills."""
        counts = {c.name: int(is_missing(frame[c.name]).sum()) for c in self.columns if not c.missing}
        return {name: count for name, count in counts.items() if count}

    def encode(self, frame: pd.DataFrame) -> np.ndarray:
        """Features as numbers; columns are found by name, others are left alone.

        Arguments:
            frame: `n` rows.

        Returns:
            `(n, F)` float32, finite.

        Raises:
            DataError: a column is missing, or a value is not what its column holds.
        """
        absent = [column.name for column in self.columns if column.name not in frame]
        if absent:
            raise DataError(absent_columns(absent, frame))
        out = np.empty((len(frame), self.n_features), dtype=np.float32)
        place = 0
        for column in self.columns:
            for values in _encode_column(frame, column, self.task):
                out[:, place] = values
                place += 1
        return out

    def encode_target(self, frame: pd.DataFrame) -> np.ndarray:
        """Targets of labelled rows.

        Arguments:
            frame: `n` rows, each with a target.

        Returns:
            `(n, 1)` float32, standardised, for regression; `(n,)` int64 class numbers for classification.

        Raises:
            DataError: a target is missing, not a number, or a class that meta-train does not have.
        """
        if self.target not in frame:
            raise DataError(absent_columns([self.target], frame))
        gaps = np.flatnonzero(is_missing(frame[self.target]))
        if len(gaps):
            raise DataError(f"{where(frame, gaps[0], self.task)}: no value in target {self.target!r}")
        if self.kind == "regression":
            values = _numbers(frame, self.target, self.task)
            return _float32((values - self.target_mean) / self.target_scale, frame, self.target, self.task)[
                :, None
            ]
        numbers, texts, codes = match_values(frame[self.target], self.classes)
        bad = np.flatnonzero(numbers < 0)
        if len(bad):
            place, label = where(frame, bad[0], self.task), texts[codes[bad[0]]]
            raise DataError(
                f"{place}: class {label!r} of target {self.target!r} is none of {listed(self.classes)}: "
                "correct it, or train on tasks that have it"
            )
        return numbers

    def decode(self, prediction: Tensor | np.ndarray) -> dict[str, np.ndarray]:
        """Predictions as columns of a table.

        Arguments:
            prediction: `(n, 1)` standardised values, or `(n, C)` logits.

        Returns:
            `prediction` in natural units; or `prediction` as label text, and `probability_<class>` for each.
        """
        values = prediction.detach().cpu().numpy() if isinstance(prediction, Tensor) else prediction
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.n_outputs:
            raise DataError(f"predictions have shape {values.shape}, expected (rows, {self.n_outputs})")
        if self.kind == "regression":
            return {"prediction": values[:, 0] * self.target_scale + self.target_mean}
        shares = np.exp(values - values.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        names = np.array(self.classes, dtype=object)
        columns = {f"probability_{name}": shares[:, i] for i, name in enumerate(self.classes)}
        return {"prediction": names[values.argmax(axis=1)], **columns}

    def without_classes(self) -> Schema:
        """The same columns for episodes that each bring their own classes."""
        return replace(self, classes=())

    def to_config(self) -> dict[str, Any]:
        """Plain data that JSON holds exactly."""
        return asdict(self)

    @staticmethod
    def from_config(config: dict[str, Any]) -> Schema:
        """The schema again.

        Raises:
            ModelFileError: the data is not a schema.
        """
        try:
            columns = tuple(Column(**{**c, "levels": tuple(c["levels"])}) for c in config["columns"])
            return Schema(**{**config, "columns": columns, "classes": tuple(config["classes"])})
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"the stored schema is damaged: {error}") from None


def target_kind(frame: pd.DataFrame, target: str, kind: str | None = None, *, task: str | None = None) -> str:
    """`kind` if given; else text, truth values or exactly two values are classes, other numbers are not.

    Raises:
        UsageError: the kind is unknown.
        DataError: the target column is missing, or holds dates, nested values or numbers with some text.

    Example:
        >>> target_kind(pd.DataFrame({"grade": [1.0, 2.5, 4.0]}), "grade")
        'regression'
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"kind={kind!r} is unknown: choose one of {', '.join(KINDS)}")
    if target not in frame:
        raise DataError(absent_columns([target], frame))
    if kind is not None:
        return kind
    column = frame[target]
    if is_number(column):
        return "classification" if column.nunique() == 2 else "regression"
    _, values = distinct(column)
    refuse_odd(column, values)
    _refuse_stray_text(frame, target, task)
    numbers = [value for value in values if not isinstance(value, str | bool | np.bool_)]
    return "regression" if len(numbers) == len(values) > 2 else "classification"


def labels(frame: pd.DataFrame, target: str) -> tuple[str, ...]:
    """Classes of a column as text: numbers in their order, other labels in alphabetical order.

    Example:
        >>> labels(pd.DataFrame({"y": [10, 9, 10]}), "y")
        ('9', '10')
    """
    _, values = distinct(frame[target])
    refuse_odd(frame[target], values)
    texts = {str(value) for value in values}
    numeric = {text: parse(text) for text in texts}
    if all(number is not None for number in numeric.values()):
        return tuple(sorted(texts, key=lambda text: (numeric[text], text)))
    return tuple(sorted(texts))


def _choose(
    frame: pd.DataFrame,
    *,
    task: str | None,
    target: str,
    features: Sequence[str] | None,
    ignore: Sequence[str],
    categorical: Sequence[str],
) -> list[str]:
    """Names of the feature columns."""
    special = [target] if task is None else [task, target]
    if task == target:
        raise UsageError(f"{task!r} is named as task and as target: they are two columns")
    named = [*special, *(features or ()), *ignore, *categorical]
    absent = [name for name in dict.fromkeys(named) if name not in frame]
    if absent:
        raise DataError(absent_columns(absent, frame))
    clash = [name for name in features or () if name in special]
    if clash:
        raise UsageError(
            f"{clash[0]!r} is the {'target' if clash[0] == target else 'task'}, so it is no feature"
        )
    used = [
        name for name in (frame.columns if features is None else features) if name not in {*special, *ignore}
    ]
    if not used:
        raise DataError(f"no feature column is left beside {', '.join(map(repr, special))}: add one")
    return list(dict.fromkeys(used))


def _fit_column(frame: pd.DataFrame, name: str, task: str | None, categorical: bool) -> Column:
    column = frame[name]
    kind = (
        "category"
        if categorical or isinstance(column.dtype, pd.CategoricalDtype)
        else _kind(frame, name, task)
    )
    if kind == "category":
        levels = labels(frame, name)
        if len(levels) > _MAX_LEVELS and not categorical:
            raise DataError(
                f"column {name!r} is text with {len(levels)} different values ({listed(levels, 3)}): leave "
                "it out (ignore), or name it as categorical if each value really is a category"
            )
        return Column(name, kind, levels=levels)
    values = _numbers(frame, name, task, flag=kind == "flag")
    gaps = np.isnan(values)
    present = values[~gaps]
    if not len(present):
        return Column(name, kind, missing=True)
    mean, scale = _moments(present)
    return Column(name, kind, mean, 1.0 if kind == "flag" else scale or 1.0, missing=bool(gaps.any()))


def _kind(frame: pd.DataFrame, name: str, task: str | None) -> str:
    """`number`, `flag` or `category`; refuses a column of numbers with some text in it."""
    column = frame[name]
    if is_number(column):
        return "number"
    _, values = distinct(column)
    refuse_odd(column, values)
    if values and all(
        isinstance(v, bool | np.bool_) or str(v).strip().lower() in ("true", "false") for v in values
    ):
        return "flag"
    if all(parse(value) is not None for value in values):
        return "number"
    _refuse_stray_text(frame, name, task)
    return "category"


def _refuse_stray_text(frame: pd.DataFrame, name: str, task: str | None) -> None:
    """Refuse a column of numbers with some text in it, or with decimal commas."""
    codes, values = distinct(frame[name])
    numeric = np.array([parse(value) is not None for value in values], dtype=bool)
    if numeric.all():
        return
    rows = np.bincount(codes[codes >= 0], minlength=len(values))
    odd = int(np.flatnonzero(np.isin(codes, np.flatnonzero(~numeric)))[0])
    text = str(values[codes[odd]])
    place = f"{where(frame, odd, task)}: {text!r} in column {name!r} is not a number"
    if text.count(",") == 1 and parse(text.replace(",", ".")) is not None:
        raise DataError(f"{place}, as it has a decimal comma: write numbers with a decimal point")
    if rows[numeric].sum() >= rows[~numeric].sum():
        raise DataError(
            f"{place}, and most of the column is: correct it or leave it empty; if the column holds names, "
            "declare it categorical (a target: kind='classification')"
        )


def _encode_column(frame: pd.DataFrame, column: Column, task: str | None) -> Iterator[np.ndarray]:
    if column.kind == "category":
        numbers, _, _ = match_values(frame[column.name], column.levels)
        for level in range(len(column.levels)):
            yield numbers == level
        return
    values = _numbers(frame, column.name, task, flag=column.kind == "flag")
    gaps = np.isnan(values)
    values = np.where(gaps, column.mean, values)
    if column.kind == "number":
        values = values / column.scale - column.mean / column.scale
    yield _float32(values, frame, column.name, task)
    if column.missing:
        yield gaps


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, 0 where rounding is all there is; no overflow at 1e300."""
    largest = float(np.abs(values).max())
    if values.min() == values.max():
        return float(values[0]), 0.0
    unit = values / largest
    mean, scale = float(unit.mean()), float(unit.std())
    return mean * largest, scale * largest if scale > 1e-15 else 0.0


def _numbers(frame: pd.DataFrame, name: str, task: str | None, *, flag: bool = False) -> np.ndarray:
    """A column as float64, NaN where a value is missing; refuses what is not a finite number."""
    column = frame[name]
    if is_number(column) or pd.api.types.is_bool_dtype(column.dtype):
        found = column.to_numpy(np.float64, na_value=np.nan)
        parsed = found
    else:
        codes, values = distinct(column)
        refuse_odd(column, values)
        each = [truth(value) if flag else parse(value) for value in values]
        parsed = np.array([np.inf if value is None else value for value in each] + [np.nan], dtype=np.float64)
        found = parsed[codes]
    allowed = np.isnan(found) | ((found == 0) | (found == 1) if flag else np.isfinite(found))
    if not allowed.all():
        row = int(np.flatnonzero(~allowed)[0])
        wanted = "True or False" if flag else "a finite number"
        raise DataError(
            f"{where(frame, row, task)}: {str(column.iloc[row])!r} in column {name!r} is not {wanted}: "
            "correct it, or leave it empty if it is unknown"
        )
    return found


def _float32(values: np.ndarray, frame: pd.DataFrame, name: str, task: str | None) -> np.ndarray:
    bad = np.flatnonzero(~(np.abs(values) < np.finfo(np.float32).max))
    if len(bad):
        raise DataError(
            f"{where(frame, bad[0], task)}: {frame[name].iloc[bad[0]]!r} in column {name!r} is too far from "
            "the meta-train values to be represented: correct it, or transform the column (logarithm)"
        )
    return values.astype(np.float32)
