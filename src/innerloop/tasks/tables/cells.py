"""Cells of a frame, value by value: gaps, numbers in text, truth values, task ids, and where a cell stands.

A message about a cell names its task and its row; rows that were read from a file are named by their line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ...errors import DataError
from ..messages import absent_columns

__all__ = [
    "as_names",
    "cell_error",
    "factorize",
    "is_missing",
    "is_number",
    "match_values",
    "parse",
    "refuse_unsupported",
    "sorted_labels",
    "task_codes",
    "task_ids",
    "truth",
    "where",
]

_TRUTH = {"true": 1.0, "false": 0.0}


def as_names(value: object) -> list[str]:
    """Column names as a list of text: one name is a list of one, and a name that is a number is its text.

    Example:
        >>> as_names("ab"), as_names(["a", 1]), as_names(2), as_names(None)
        (['ab'], ['a', '1'], ['2'], [])
    """
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [str(value)]
    return [str(name) for name in value]


def task_codes(frame: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Names of the tasks in the order of their text, and the number of each row's task, `(n,)`.

    Whole numbers stored as floats lose their `.0`.

    Raises:
        DataError: there is no such column, or a row has no task.

    Example:
        >>> task_codes(pd.DataFrame({"school": [2.0, 1.0, 2.0]}), "school")
        (array(['1', '2'], dtype=object), array([1, 0, 1]))
    """
    if task not in frame:
        raise DataError(absent_columns([task], frame))
    codes, values = factorize(frame[task])
    gaps = np.flatnonzero(codes < 0)
    if len(gaps):
        raise cell_error(
            frame, gaps[0], f"no task id in column {task!r} ({len(gaps)} such rows): fill it in or remove the row",
            column=task,
        )  # fmt: skip
    texts = [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values]
    # 1 and "1" are one task
    names, numbers = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return names, np.asarray(numbers.ravel()[codes])


def task_ids(frame: pd.DataFrame, task: str) -> np.ndarray:
    """The task of each row as text, `(n,)`, see `task_codes`.

    Example:
        >>> task_ids(pd.DataFrame({"school": [1.0, 2.0]}), "school").tolist()
        ['1', '2']
    """
    names, codes = task_codes(frame, task)
    return np.asarray(names[codes])


def is_number(column: pd.Series) -> bool:
    """The column is stored as real numbers."""
    kind = column.dtype
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) and kind.kind != "c"


def is_missing(column: pd.Series) -> np.ndarray:
    """Rows without a value, blank text among them, `(n,)` bool."""
    return column.isna().to_numpy(dtype=bool) if is_number(column) else factorize(column)[0] < 0


def factorize(column: pd.Series) -> tuple[np.ndarray, list[object]]:
    """`pandas.factorize` with blank text as a gap: number of each row's value, -1 for gaps; the values."""
    try:
        codes, uniques = pd.factorize(column)
    except (TypeError, NotImplementedError):  # the second is that of arrow
        raise DataError(
            f"column {column.name!r} holds lists or dicts: one plain value a cell is needed",
            column=str(column.name),
        ) from None
    values = list(uniques)
    full = np.array([not isinstance(value, str) or bool(value.strip()) for value in values], dtype=bool)
    if full.all():
        return codes, values
    # one entry more than there are values, so that the code -1 of a gap stays -1
    renumber = np.append(np.where(full, np.cumsum(full) - 1, -1), -1)
    return renumber[codes], [value for value, keep in zip(values, full, strict=True) if keep]


def refuse_unsupported(column: pd.Series, values: list[object]) -> None:
    """Refuse dates and nested values in a column of text, numbers or truth values."""
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


def match_values(column: pd.Series, known: Sequence[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Index of each row's value among known texts, -1 for others; the column's values; which each row holds."""
    codes, values = factorize(column)
    texts = [str(value) for value in values]
    exact = {text: number for number, text in enumerate(known)}
    # a column of whole numbers turns to floats as soon as it has gaps: 1.0 then stands for 1
    spelled = [(parse(text), number) for number, text in enumerate(known)]
    twice = Counter(value for value, _ in spelled)
    loose = {value: number for value, number in spelled if value is not None and twice[value] == 1}

    def match(value: object, text: str) -> int:
        if text in exact:
            return exact[text]
        if isinstance(value, str):  # names as they are written: 1.10 is not 1.1, and 007 is not 7
            return exact.get(text.removesuffix(".0") if text.endswith(".0") else f"{text}.0", -1)
        number = parse(value)
        return -1 if number is None else loose.get(number, -1)

    matches = [match(value, text) for value, text in zip(values, texts, strict=True)]
    return np.array([*matches, -1], dtype=np.int64)[codes], texts, codes


def parse(value: object) -> float | None:
    """The number that a value is or spells; `None` if it is none."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, str) and np.isnan(number) else number


def truth(value: object) -> float | None:
    """1 and 0 for truth values, however they are written; `None` for what is none."""
    return _TRUTH.get(str(value).strip().lower(), parse(value))


def where(frame: pd.DataFrame, row: int | np.integer, task: str | None) -> str:
    """The task and the row, the way the user can find them."""
    line = f"{'line' if frame.index.name == 'line' else 'row'} {frame.index[int(row)]}"
    return line if task not in frame else f"task {str(frame[task].iloc[int(row)])!r}, {line}"


def cell_error(
    frame: pd.DataFrame, row: int | np.integer, message: str, *, column: str, task: str | None = None
) -> DataError:
    """An error about one cell: its task and its row come before the message, and as data.

    Example:
        >>> frame = pd.DataFrame({"site": ["a"], "dose": ["x"]})
        >>> str(cell_error(frame, 0, "'x' is no number", column="dose", task="site"))
        "task 'a', row 0: 'x' is no number"
    """
    owner = {} if task not in frame else {"task": str(frame[task].iloc[int(row)])}
    line = str(frame.index[int(row)])
    return DataError(f"{where(frame, row, task)}: {message}", row=line, **owner, column=column)


def sorted_labels(column: pd.Series) -> tuple[str, ...]:
    """Different values as text: numbers in their order, other labels in alphabetical order.

    Example:
        >>> sorted_labels(pd.Series([10, 9, 10]))
        ('9', '10')
    """
    _, values = factorize(column)
    refuse_unsupported(column, values)
    texts = {str(value) for value in values}
    numeric = {text: parse(text) for text in texts}
    if all(number is not None for number in numeric.values()):
        return tuple(sorted(texts, key=lambda text: (numeric[text], text)))
    return tuple(sorted(texts))
