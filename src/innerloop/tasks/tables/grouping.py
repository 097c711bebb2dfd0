"""Which rows of a table belong together: tasks, the splits they are in, the order support is chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...errors import DataError
from ..messages import absent_columns, listed
from ..splits import Split, divide
from ..support import SupportChoice
from .cells import cell_error, factorize, is_missing, n_distinct, task_codes
from .columns import kind_of, numbers

__all__ = ["layout", "order_values", "task_splits", "with_support", "without_empty"]


def layout(
    frame: pd.DataFrame,
    task: str,
    of_row: NDArray[np.int64],
    choice: SupportChoice,
    date_format: Sequence[str] = (),
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Positions `(m,)` of the rows by task; for blocks the first row of each among them, and `m`.

    `of_row` `(n,)` numbers each row's task, negative for rows to leave out. Rows with equal values in an `order`
    column keep the order of the table.

    Example:
        >>> visits = pd.DataFrame({"who": list("abab"), "day": [9, 2, 3, 2]})
        >>> layout(visits, "who", np.array([0, 1, 0, 1]), SupportChoice("order", "day"))[0].tolist()
        [2, 0, 1, 3]
    """
    dropped = int((of_row < 0).sum())
    if choice.column is None:
        return np.argsort(of_row, kind="stable")[dropped:], None
    if choice.how == "order":
        return np.lexsort((order_values(frame, choice.column, task, date_format), of_row))[dropped:], None
    codes, _ = factorize(frame[choice.column])
    order = np.lexsort((codes, of_row))[dropped:]
    changes = (np.diff(of_row[order]) != 0) | (np.diff(codes[order]) != 0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1, [len(order)]]) if len(order) else np.zeros(1)
    return order, starts.astype(np.int64)


def with_support(
    frame: pd.DataFrame, names: np.ndarray, codes: NDArray[np.int64], choice: SupportChoice
) -> tuple[pd.DataFrame, NDArray[np.int64], list[str]]:
    """Rows that `choice` can use: those with a value in its column and, for blocks, of tasks with two blocks.

    Returns:
        The rows, the numbers of their tasks, and what was dropped, one sentence each.

    Raises:
        DataError: there is no such column.
    """
    notes: list[str] = []
    column = choice.column
    if column is None:
        return frame, codes, notes
    if column not in frame:
        raise DataError(absent_columns([column], frame))
    gaps = is_missing(frame[column])
    if gaps.any():
        notes.append(
            f"{int(gaps.sum())} of {len(frame)} rows have no {column!r}, which support={choice} needs, and "
            "were dropped"
        )
        frame, codes = frame[~gaps], codes[~gaps]
    if choice.how == "block":
        alone = n_distinct(factorize(frame[column])[0], codes, len(names)) == 1
        if alone.any():
            dropped = listed(names[alone].tolist(), 5)
            notes.append(
                f"{int(alone.sum())} tasks have one block in {column!r} and were dropped, for support needs "
                f"one and query another: {dropped}"
            )
            frame, codes = frame[~alone[codes]], codes[~alone[codes]]
    return frame, codes, notes


def order_values(
    frame: pd.DataFrame, column: str, task: str, date_format: Sequence[str] = ()
) -> NDArray[np.float64]:
    """What rows are sorted by: numbers, or dates as days, read like a feature of that name.

    Raises:
        DataError: a value is neither a number nor a date, or a date that can be two days.

    Example:
        >>> order_values(pd.DataFrame({"day": ["1.3.2024", "31.12.2023"]}), "day", "who").argsort().tolist()
        [1, 0]
    """
    kind, formats = kind_of(frame, column, task, date_format)
    if kind == "category":
        raise cell_error(
            frame, 0,
            f"{str(frame[column].iloc[0])!r} in {column!r}, which orders the rows, is no number and no date such as "
            "2024-03-31: correct it, name how dates are written (--date-format), or order by another column",
            column=column, task=task,
        )  # fmt: skip
    return numbers(frame, column, task, kind=kind, formats=formats)


def without_empty(names: np.ndarray, codes: NDArray[np.int64]) -> tuple[np.ndarray, NDArray[np.int64]]:
    """The names that a row has, and the number of each row's one among them.

    Example:
        >>> without_empty(np.array(["a", "b", "c"], dtype=object), np.array([2, 0, 2]))
        (array(['a', 'c'], dtype=object), array([1, 0, 1]))
    """
    used = np.bincount(codes, minlength=len(names)) > 0
    return (names, codes) if used.all() else (names[used], (np.cumsum(used) - 1)[codes])


def task_splits(
    frame: pd.DataFrame,
    whole: pd.DataFrame,
    codes: NDArray[np.int64],
    names: np.ndarray,
    *,
    task: str,
    split: Split,
    split_by: str | None,
    seed: int,
) -> list[NDArray[np.int64]]:
    """The tasks of each split, three arrays of positions in `names`; `codes` is the task of each row of `frame`.

    A fixed split may name tasks of the `whole` table that are not used.

    Raises:
        DataError: there are fewer than three tasks, a task has two values in `split_by`, or a fixed split
            does not fit.

    Example:
        >>> frame = pd.DataFrame({"who": list("abcd"), "site": [1, 2, 3, 3]})
        >>> codes, names = np.arange(4), np.array(list("abcd"), dtype=object)
        >>> split = {"task": "who", "split": (0.4, 0.3, 0.3), "split_by": "site", "seed": 0}
        >>> any(set(part) >= {2, 3} for part in task_splits(frame, frame, codes, names, **split))
        True
    """
    unit_names, unit, what = names, np.arange(len(names)), f"tasks in {task!r}"
    if split_by is not None:
        unit_names, unit = _units(frame, codes, names, split_by)
        what = f"values of {split_by!r}"
    if len(unit_names) < 3:
        few = f"{len(unit_names)} {'value' if split_by else 'task'}(s) with two labelled rows or more"
        raise DataError(
            f"column {split_by or task!r} has {few} ({listed(unit_names.tolist())}): the three splits need "
            f"at least one each; is this the {'column to split by' if split_by else 'task column'}?"
        )
    fixed = isinstance(split, Mapping | str | Path)
    known = task_codes(whole, split_by or task)[0].tolist() if fixed else ()
    members = divide(unit_names.tolist(), split, seed, what=what, dropped=known)
    return [np.flatnonzero(np.isin(unit, part)) for part in members]


def _units(
    frame: pd.DataFrame, codes: NDArray[np.int64], names: np.ndarray, column: str
) -> tuple[np.ndarray, NDArray[np.int64]]:
    """Different values of a coarser column, and the number of each task's one."""
    values, of_row = task_codes(frame, column)
    unit = np.zeros(len(names), dtype=np.int64)
    unit[codes] = of_row
    mixed = np.flatnonzero(unit[codes] != of_row)
    if len(mixed):
        task = codes[mixed[0]]
        several = sorted(str(values[v]) for v in np.unique(of_row[codes == task]))
        raise DataError(
            f"task {str(names[task])!r} has {len(several)} values of {column!r} ({listed(several, 4)}), so it "
            "cannot be in one split: correct the column, or split by another one"
        )
    return values, unit
