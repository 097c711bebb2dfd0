"""Which columns of a table are to be predicted, and what they are: numbers, or classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...errors import DataError, UsageError
from ..messages import absent_columns, listed
from .cells import as_names, factorize, is_missing, is_number, parse, refuse_unsupported
from .columns import Column, moments, numbers
from .numbers import refuse_stray_text

__all__ = ["KINDS", "fit_target", "labelled_rows", "some_known", "target_kind", "target_names"]

KINDS = ("regression", "classification")
# text with more different numbers than these may be no set of classes
_MANY_CLASSES = 20


def target_names(target: str | Sequence[str]) -> list[str]:
    """One target or several as a list."""
    return as_names(target)


def labelled_rows(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Rows in which no target is missing, `(n,)` bool."""
    return np.asarray(~np.any([is_missing(frame[name]) for name in names], axis=0))


def some_known(frame: pd.DataFrame, names: Sequence[str]) -> bool:
    """Whether a row knows some of several targets, and not all.

    Example:
        >>> frame = pd.DataFrame({"height": [1.7, None, None], "weight": [60.0, 70.0, None]})
        >>> some_known(frame, ["height", "weight"]), some_known(frame, ["height"])
        (True, False)
    """
    known = np.stack([~is_missing(frame[name]) for name in names])
    return bool((known.any(axis=0) & ~known.all(axis=0)).any())


def target_kind(
    frame: pd.DataFrame, target: str | Sequence[str], kind: str | None = None, *, task: str | None = None
) -> str:
    """`kind` if given; else text, truth values or exactly two values are classes, other numbers are not.

    Several targets are regression.

    Raises:
        UsageError: the kind is unknown, or is classification of several targets.
        DataError: the target column is missing, or holds dates, nested values or numbers with some text.

    Example:
        >>> target_kind(pd.DataFrame({"grade": [1.0, 2.5, 4.0]}), "grade")
        'regression'
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"kind={kind!r} is unknown: choose one of {', '.join(KINDS)}")
    names = target_names(target)
    absent = [name for name in names if name not in frame]
    if absent:
        raise DataError(absent_columns(absent, frame))
    if len(names) > 1 and kind == "classification":
        raise UsageError(f"several targets ({listed(names)}) are numbers, not classes: give one target")
    if kind is not None or len(names) > 1:
        return kind or "regression"
    column = frame[names[0]]
    if is_number(column):
        return "classification" if column.nunique() == 2 else "regression"
    _, values = factorize(column)
    refuse_unsupported(column, values)
    refuse_stray_text(frame, names[0], task)
    _refuse_numbers_as_text(column, values)
    plain = [value for value in values if not isinstance(value, str | bool | np.bool_)]
    return "regression" if len(plain) == len(values) > 2 else "classification"


def _refuse_numbers_as_text(column: pd.Series, values: Sequence[object]) -> None:
    """Refuse a target of text in which nearly every cell is another number: these are no names of classes."""
    if len(values) <= _MANY_CLASSES or 2 * len(values) < column.count():
        return
    if all(isinstance(value, str) and parse(value) is not None for value in values):
        raise DataError(
            f"target {str(column.name)!r} is text with {len(values)} different numbers, {values[0]!r} the first: to "
            "predict them as numbers, say so (--kind regression); as classes, --kind classification",
            column=str(column.name),
        )


def fit_target(frame: pd.DataFrame, name: str, task: str | None) -> Column:
    """Mean and scale of a target."""
    values = numbers(frame, name, task)
    values = values[~np.isnan(values)]
    if not len(values):
        raise DataError(f"target {name!r} has no value: give rows with a target", column=name)
    mean, scale = moments(values)
    if scale == 0.0:
        raise DataError(
            f"target {name!r} is {values[0]:g} in every meta-train row: there is nothing to learn; "
            "name another target",
            column=name,
        )
    return Column(name, "number", mean, scale)
