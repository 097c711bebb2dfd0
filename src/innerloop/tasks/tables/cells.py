"""Looking at the cells of a frame value by value: gaps, numbers in text, ids, and where a cell stands.

A message about a cell names its task and its row; rows that were read from a file are named by their line.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...errors import DataError

_TRUTH = {"true": 1.0, "false": 0.0}


def task_codes(frame: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Names of the tasks in the order of their text, and the number of each row's one, `(n,)`.

    Whole numbers stored as floats lose their `.0`.

    Raises:
        DataError: there is no such column, or a row has no task.

    Example:
        >>> task_codes(pd.DataFrame({"school": [2.0, 1.0, 2.0]}), "school")
        (array(['1', '2'], dtype=object), array([1, 0, 1]))
    """
    if task not in frame:
        raise DataError(absent_columns([task], frame))
    codes, values = distinct(frame[task])
    gaps = np.flatnonzero(codes < 0)
    if len(gaps):
        row = where(frame, gaps[0], None)
        raise DataError(
            f"{row}: no task id in column {task!r} ({len(gaps)} such rows): fill it in or remove the row",
            **place(frame, gaps[0], None, task),
        )
    whole = [isinstance(value, float) and float(value).is_integer() for value in values]
    texts = [str(int(v)) if is_whole else str(v) for v, is_whole in zip(values, whole, strict=True)]
    # 1 and "1" are one task
    names, number = np.unique(np.array(texts, dtype=object), return_inverse=True)
    found: np.ndarray = number.ravel()[codes]
    return names, found


def task_ids(frame: pd.DataFrame, task: str) -> np.ndarray:
    """The task of each row as text, `(n,)`, see `task_codes`.

    Example:
        >>> task_ids(pd.DataFrame({"school": [1.0, 2.0]}), "school").tolist()
        ['1', '2']
    """
    names, codes = task_codes(frame, task)
    found: np.ndarray = names[codes]
    return found


def is_number(column: pd.Series[Any]) -> bool:
    """The column is stored as real numbers."""
    kind = column.dtype
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) and kind.kind != "c"


def is_missing(column: pd.Series[Any]) -> np.ndarray:
    """Gaps, blank text among them."""
    if is_number(column):
        return column.isna().to_numpy(dtype=bool)
    return distinct(column)[0] < 0


def distinct(column: pd.Series[Any]) -> tuple[np.ndarray, list[Any]]:
    """Number of each row's value in a list of different values, -1 for gaps and blank text."""
    try:
        codes, found = pd.factorize(column)
    except TypeError:
        raise DataError(
            f"column {column.name!r} holds lists or dicts: one plain value a cell is needed",
            column=str(column.name),
        ) from None
    values = list(found)
    full = np.array([not isinstance(value, str) or bool(value.strip()) for value in values], dtype=bool)
    if full.all():
        return codes, values
    # one place more than there are values, so that the code -1 of a gap stays -1
    renumber = np.append(np.where(full, np.cumsum(full) - 1, -1), -1)
    return renumber[codes], [value for value, keep in zip(values, full, strict=True) if keep]


def refuse_odd(column: pd.Series[Any], values: list[Any]) -> None:
    """Values are text, numbers or truth values; dates and nested values have no meaning here."""
    for value in values:
        if hasattr(value, "isoformat") or isinstance(value, np.datetime64 | np.timedelta64 | pd.Period):
            raise DataError(
                f"column {column.name!r} holds dates or times ({value}): turn them into a number first, such "
                "as days since a start, or leave the column out (ignore)",
                column=str(column.name),
            )
        if isinstance(value, complex | tuple | frozenset | bytes):
            raise DataError(
                f"column {column.name!r} holds {type(value).__name__} values ({value!r}): one number or text "
                "a cell is needed",
                column=str(column.name),
            )


def match_values(column: pd.Series[Any], known: Sequence[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Find values among known texts.

    Returns:
        Position of each row's value in `known`, -1 where it is not there; the different values of the column
        as text; which of them each row holds.
    """
    codes, values = distinct(column)
    texts = [str(value) for value in values]
    exact = {text: number for number, text in enumerate(known)}
    # a column of whole numbers turns to floats as soon as it has gaps: 1.0 then stands for 1
    loose = {parse(text): number for number, text in enumerate(known) if parse(text) is not None}
    found = [exact.get(text, loose.get(parse(text), -1)) for text in texts]
    return np.array([*found, -1], dtype=np.int64)[codes], texts, codes


def parse(value: Any) -> float | None:
    """The number that a value is or spells; `None` if it is none."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, str) and np.isnan(number) else number


def truth(value: Any) -> float | None:
    """1 and 0 for truth values, however they are written; `None` for what is none."""
    return _TRUTH.get(str(value).strip().lower(), parse(value))


def where(frame: pd.DataFrame, row: int | np.integer[Any], task: str | None) -> str:
    """The task and the row, the way the user can find them."""
    place = f"{'line' if frame.index.name == 'line' else 'row'} {frame.index[int(row)]}"
    if task is None or task not in frame:
        return place
    return f"task {str(frame[task].iloc[int(row)])!r}, {place}"


def place(
    frame: pd.DataFrame, row: int | np.integer[Any], task: str | None, column: str | None = None
) -> dict[str, str]:
    """The same for programs: what an error carries as its place."""
    found = {"row": str(frame.index[int(row)])}
    if task is not None and task in frame:
        found["task"] = str(frame[task].iloc[int(row)])
    return found if column is None else found | {"column": column}


def sorted_labels(column: pd.Series[Any]) -> tuple[str, ...]:
    """Different values as text: numbers in their order, other labels in alphabetical order.

    Example:
        >>> sorted_labels(pd.Series([10, 9, 10]))
        ('9', '10')
    """
    _, values = distinct(column)
    refuse_odd(column, values)
    texts = {str(value) for value in values}
    numeric = {text: parse(text) for text in texts}
    if all(number is not None for number in numeric.values()):
        return tuple(sorted(texts, key=lambda text: (numeric[text], text)))
    return tuple(sorted(texts))


def absent_columns(names: Sequence[str], frame: pd.DataFrame) -> str:
    """The message about columns that are not there, with those that may be meant."""
    columns = [str(name) for name in frame.columns]
    lower = {name.strip().lower(): name for name in columns}
    near = [lower.get(name.strip().lower()) or next(iter(close_names(name, columns)), None) for name in names]
    what = ", ".join(map(repr, names))
    return (
        f"no column {what} in the table{meant([name for name in near if name])}; it has {listed(columns, 12)}"
    )


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """The known name that looks most like `name`, if one does.

    Example:
        >>> close_names("shcool", ["school", "exam"])
        ['school']
    """
    return difflib.get_close_matches(name, list(known), 1)


def meant(near: Sequence[str]) -> str:
    """` (did you mean 'a'?)`, or nothing."""
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def quoted(name: str) -> str:
    """A column name as an option of the command takes it.

    Example:
        >>> print(quoted("dose"), quoted("Promo %"), quoted("age, years"))
        dose 'Promo %' '"age, years"'
    """
    return shlex.quote(f'"{name}"' if "," in name else name)


def listed(names: Sequence[str], most: int = 8) -> str:
    """`'a', 'b' and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
