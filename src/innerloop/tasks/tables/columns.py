"""What one column of features means: fitted on meta-train, stored as data, applied unchanged later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...errors import DataError
from . import dates
from .cells import (
    distinct,
    is_number,
    listed,
    match_values,
    parse,
    place,
    quoted,
    refuse_odd,
    sorted_labels,
    truth,
    where,
)
from .numbers import refuse_stray_text

KINDS = ("number", "flag", "category", "date")

_MAX_LEVELS = 100


@dataclass(frozen=True)
class Column:
    """What one column of features means.

    Arguments:
        name: its name.
        kind: `number` (standardised), `date` (days, standardised), `flag` (0 or 1) or `category` (one column
            a level, 0 in all for a level that meta-train does not have).
        mean: mean over meta-train; a gap is filled with it.
        scale: standard deviation over meta-train, 1 for a constant column.
        levels: of a category.
        missing: meta-train has gaps, so an indicator column follows.
        formats: of a date written as text, `ISO` or as `strptime` has them.
        constant_in_task: every task of meta-train has one value, such as the age of a patient.
    """

    name: str
    kind: str
    mean: float = 0.0
    scale: float = 1.0
    levels: tuple[str, ...] = ()
    missing: bool = False
    formats: tuple[str, ...] = ()
    constant_in_task: bool = False

    @property
    def width(self) -> int:
        """Features it becomes."""
        return len(self.levels) if self.kind == "category" else 1 + self.missing


def fit_column(
    frame: pd.DataFrame,
    name: str,
    *,
    task: str | None,
    whole: pd.DataFrame | None = None,
    categorical: bool = False,
    date_format: Sequence[str] = (),
) -> Column:
    """Find out what a column means.

    Arguments:
        frame: meta-train rows.
        name: the column.
        task: the task column, for messages.
        whole: the table they are from, which says what kind of values the column holds.
        categorical: its values are names, numbers among them too.
        date_format: formats of dates, as `strptime` has them, to be tried before those that are recognised.

    Returns:
        The column.

    Raises:
        DataError: a value is not what the column holds, or dates are ambiguous.

    Example:
        >>> fit_column(pd.DataFrame({"dose": [1.0, 3.0]}), "dose", task=None)
        Column(name='dose', kind='number', mean=2.0, scale=1.0, levels=(), missing=False, formats=(), ...)
    """
    column = frame[name]
    names = categorical or isinstance(column.dtype, pd.CategoricalDtype)
    whole = frame if whole is None else whole
    kind, formats = ("category", ()) if names else kind_of(whole, name, task, date_format)
    if kind == "category":
        levels, every = sorted_labels(column), sorted_labels(whole[name])
        if len(every) > _MAX_LEVELS and not categorical:
            raise DataError(
                f"column {name!r} is text with {len(every)} different values ({listed(every, 3)}): leave "
                f"it out (--ignore {quoted(name)}), or say that each value really is a name "
                f"(--categorical {quoted(name)})",
                column=name,
            )
        return Column(name, kind, levels=levels)
    values = numbers(frame, name, task, kind=kind, formats=formats)
    gaps = np.isnan(values)
    present = values[~gaps]
    if not len(present):
        return Column(name, kind, missing=True, formats=formats)
    mean, scale = moments(present)
    return Column(
        name, kind, mean, 1.0 if kind == "flag" else scale or 1.0, missing=bool(gaps.any()), formats=formats
    )


def constant_in_tasks(frame: pd.DataFrame, name: str, tasks: np.ndarray) -> bool:
    """Each task has one value in this column, and tasks differ.

    Arguments:
        frame: `n` rows.
        name: the column.
        tasks: `(n,)` number of each row's task.

    Example:
        >>> frame = pd.DataFrame({"age": [50, 50, 61, 61], "dose": [1, 2, 1, 2]})
        >>> [constant_in_tasks(frame, name, np.array([0, 0, 1, 1])) for name in frame]
        [True, False]
    """
    column = frame[name]
    if is_number(column):
        # as they are: numbering millions of different values takes several times their memory
        codes = np.nan_to_num(column.to_numpy(np.float64, na_value=np.nan), nan=-np.inf)
    else:
        codes, _ = distinct(column)
    first = np.zeros(int(tasks.max(initial=0)) + 1, dtype=codes.dtype)
    first[tasks[::-1]] = codes[::-1]
    return bool((codes == first[tasks]).all() and (codes != codes[:1]).any())


def encode_column(frame: pd.DataFrame, column: Column, task: str | None) -> Iterator[np.ndarray]:
    """The features `(n,)` that a column becomes.

    Raises:
        DataError: a value is not what the column holds.
    """
    if column.kind == "category":
        found, _, _ = match_values(frame[column.name], column.levels)
        for level in range(len(column.levels)):
            yield found == level
        return
    values = numbers(frame, column.name, task, kind=column.kind, formats=column.formats)
    gaps = np.isnan(values)
    values = np.where(gaps, column.mean, values)
    if column.kind != "flag":
        values = values / column.scale - column.mean / column.scale
    yield as_float32(values, frame, column.name, task)
    if column.missing:
        yield gaps


def numbers(
    frame: pd.DataFrame, name: str, task: str | None, *, kind: str = "number", formats: Sequence[str] = ()
) -> np.ndarray:
    """A column as float64, NaN where a value is missing; refuses what is no finite number, date or flag."""
    column = frame[name]
    if kind != "date" and (is_number(column) or pd.api.types.is_bool_dtype(column.dtype)):
        found = column.to_numpy(np.float64, na_value=np.nan)
    else:
        codes, values = distinct(column)
        if kind == "date":
            each = [dates.days(value, formats) for value in values]
        else:
            refuse_odd(column, values)
            each = [truth(value) if kind == "flag" else parse(value) for value in values]
        parsed = np.array([np.inf if value is None else value for value in each] + [np.nan], dtype=np.float64)
        found = parsed[codes]
    allowed = np.isnan(found) | ((found == 0) | (found == 1) if kind == "flag" else np.isfinite(found))
    if not allowed.all():
        bad = np.flatnonzero(~allowed)
        wanted = {"flag": "True or False", "date": f"a date ({' or '.join(map(dates.spelled, formats))})"}
        more = f" ({len(bad)} such cells)" if len(bad) > 1 else ""
        raise DataError(
            f"{where(frame, bad[0], task)}: {str(column.iloc[bad[0]])!r} in column {name!r} is not "
            f"{wanted.get(kind, 'a finite number')}{more}: correct it, or leave it empty if it is unknown",
            **place(frame, bad[0], task, name),
        )
    return found


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, 0 where rounding is all there is; no overflow at 1e300."""
    largest = float(np.abs(values).max())
    if values.min() == values.max():
        return float(values[0]), 0.0
    unit = values / largest
    mean, scale = float(unit.mean()), float(unit.std())
    return mean * largest, scale * largest if scale > 1e-15 else 0.0


def as_float32(values: np.ndarray, frame: pd.DataFrame, name: str, task: str | None) -> np.ndarray:
    """The same in single precision; refuses what it cannot hold."""
    bad = np.flatnonzero(~(np.abs(values) < np.finfo(np.float32).max))
    if len(bad):
        raise DataError(
            f"{where(frame, bad[0], task)}: {frame[name].iloc[bad[0]]!r} in column {name!r} is too far from "
            "the meta-train values to be represented: correct it, or transform the column (logarithm)",
            **place(frame, bad[0], task, name),
        )
    return values.astype(np.float32)


def kind_of(
    frame: pd.DataFrame, name: str, task: str | None, date_format: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Kind and date formats; refuses a column of numbers or dates with some text in it, and unclear dates."""
    column = frame[name]
    if is_number(column):
        return "number", ()
    _, values = distinct(column)
    given = tuple(dates.ISO if form == "%Y-%m-%d" else form for form in date_format)
    read = sum(dates.days(value, given) is not None for value in values) if given else 0
    formats = given if 2 * read > len(values) else dates.formats_of(values)
    if formats:
        _refuse_unclear_dates(frame, name, task, formats, given)
        return "date", formats
    refuse_odd(column, values)
    if values and all(truth(value) in (0, 1) for value in values):
        # 0 and 1 alone are numbers, beside a truth value they are what it is
        return ("number" if all(parse(value) is not None for value in values) else "flag"), ()
    if all(parse(value) is not None for value in values):
        return "number", ()
    refuse_stray_text(frame, name, task)
    return "category", ()


def _refuse_unclear_dates(
    frame: pd.DataFrame, name: str, task: str | None, formats: Sequence[str], given: Sequence[str]
) -> None:
    """Refuse dates that are two days by two formats, and two ways of writing that nobody has named."""
    if formats == given:
        return
    codes, values = distinct(frame[name])
    for number, value in enumerate(values):
        if both := dates.ambiguous(value, formats):
            row = int(np.flatnonzero(codes == number)[0])
            raise DataError(
                f"{where(frame, row, task)}: {value!r} in column {name!r} is {dates.spelled(both[0])} or "
                f"{dates.spelled(both[1])}: say which (--date-format {both[0]} or --date-format {both[1]})",
                **place(frame, row, task, name),
            )
    first = formats[0]
    for number, value in enumerate(values):
        if isinstance(value, str) and dates.days(value, formats[:1]) is None and dates.days(value, formats):
            row = int(np.flatnonzero(codes == number)[0])
            named = ",".join(map(dates.option, formats))
            raise DataError(
                f"{where(frame, row, task)}: {value!r} in column {name!r} is not {dates.spelled(first)} as "
                f"most dates there are: write all dates one way, or name both (--date-format {named})",
                **place(frame, row, task, name),
            )
