"""Which rows of a table belong together: tasks, the splits they are in, the order support is chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...errors import DataError
from ..messages import absent_columns, listed
from ..splits import NoTest, Split, divide
from ..support import SupportChoice
from .cells import cell_error, factorize, is_missing, task_codes
from .columns import kind_of, numbers

__all__ = ["Grouped", "layout", "order_values", "task_splits"]


class Grouped(NamedTuple):
    """Rows of a table grouped by task.

    Arguments:
        frame: `n` rows.
        names: of the tasks.
        codes: `(n,)` number of each row's task.
    """

    frame: pd.DataFrame
    names: np.ndarray
    codes: NDArray[np.int64]

    @staticmethod
    def by(task: str, frame: pd.DataFrame) -> Grouped:
        """All rows of a frame, by its task column."""
        return Grouped(frame, *task_codes(frame, task))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each task."""
        return np.bincount(self.codes, minlength=len(self.names))

    def n_distinct(self, column: str) -> NDArray[np.int64]:
        """How many different values each task has in a column without gaps.

        Example:
            >>> Grouped.by("who", pd.DataFrame({"who": list("aab"), "day": [1, 2, 2]})).n_distinct("day")
            array([2, 1])
        """
        codes, values = factorize(self.frame[column])
        pairs = np.unique(self.codes.astype(np.int64) * max(len(values), 1) + codes)
        return np.bincount(pairs // max(len(values), 1), minlength=len(self.names))

    def only(self, rows: NDArray[np.bool_]) -> Grouped:
        """Some of the rows."""
        return Grouped(self.frame[rows], self.names, self.codes[rows])

    def without(self, tasks: NDArray[np.bool_], why: str, notes: list[str], *, reason: str = "") -> Grouped:
        """The rows of other tasks; a note says which tasks were dropped and why."""
        if not tasks.any():
            return self
        few = listed(self.names[np.flatnonzero(tasks)].tolist(), 5)
        notes.append(f"{int(tasks.sum())} tasks have {why} and were dropped{reason}: {few}")
        return self.only(~tasks[self.codes])

    def compact(self) -> Grouped:
        """The same rows, without the names of tasks that have none.

        Example:
            >>> Grouped(pd.DataFrame(), np.array(["a", "b", "c"]), np.array([2, 0, 2])).compact()[1:]
            (array(['a', 'c'], dtype='<U1'), array([1, 0, 1]))
        """
        used = self.sizes > 0
        if used.all():
            return self
        return Grouped(self.frame, self.names[used], (np.cumsum(used) - 1)[self.codes])

    def supported(self, choice: SupportChoice, notes: list[str]) -> Grouped:
        """Rows with a value in the column that chooses support; for blocks, of tasks with two or more.

        Raises:
            DataError: there is no such column.
        """
        rows, column = self, choice.column
        if column is None:
            return rows
        if column not in rows.frame:
            raise DataError(absent_columns([column], rows.frame))
        gaps = is_missing(rows.frame[column])
        if gaps.any():
            notes.append(
                f"{int(gaps.sum())} of {len(gaps)} rows have no {column!r}, which support={choice} needs, and "
                "were dropped"
            )
            rows = rows.only(~gaps)
        if choice.how == "order":
            return rows
        why, reason = f"one block in {column!r}", ", for support needs one and query another"
        return rows.without(rows.n_distinct(column) == 1, why, notes, reason=reason)


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


def task_splits(
    rows: Grouped, whole: pd.DataFrame, *, task: str, split: Split, split_by: str | None, seed: int
) -> list[NDArray[np.int64]]:
    """The tasks of each split, three arrays of positions in `rows.names`.

    A fixed split may name tasks of the `whole` table that are not used.

    Raises:
        DataError: there are fewer than three tasks, a task has two values in `split_by`, or a fixed split
            does not fit.

    Example:
        >>> frame = pd.DataFrame({"who": list("abcd"), "site": [1, 2, 3, 3]})
        >>> rows, split = Grouped.by("who", frame), (0.4, 0.3, 0.3)
        >>> parts = task_splits(rows, frame, task="who", split=split, split_by="site", seed=0)
        >>> any(set(part) >= {2, 3} for part in parts)
        True
    """
    unit_names, unit, what = rows.names, np.arange(len(rows.names)), f"tasks in {task!r}"
    if split_by is not None:
        unit_names, unit = _units(rows, split_by)
        what = f"values of {split_by!r}"
    least = 1 if isinstance(split, NoTest) else 3
    if len(unit_names) < least:
        needs = "one is needed" if least == 1 else "the three splits need at least one each"
        few = f"{len(unit_names)} {'value' if split_by else 'task'}(s) with two labelled rows or more"
        raise DataError(
            f"column {split_by or task!r} has {few} ({listed(unit_names.tolist())}): {needs}; "
            f"is this the {'column to split by' if split_by else 'task column'}?"
        )
    fixed = isinstance(split, Mapping | str | Path)
    known = task_codes(whole, split_by or task)[0].tolist() if fixed else ()
    members = divide(unit_names.tolist(), split, seed, what=what, dropped=known)
    return [np.flatnonzero(np.isin(unit, part)) for part in members]


def _units(rows: Grouped, column: str) -> tuple[np.ndarray, NDArray[np.int64]]:
    """Different values of a coarser column, and the number of each task's value."""
    values, of_row = task_codes(rows.frame, column)
    unit = np.zeros(len(rows.names), dtype=np.int64)
    unit[rows.codes] = of_row
    mixed = np.flatnonzero(unit[rows.codes] != of_row)
    if len(mixed):
        task = rows.codes[mixed[0]]
        several = sorted(str(values[v]) for v in np.unique(of_row[rows.codes == task]))
        raise DataError(
            f"task {str(rows.names[task])!r} has {len(several)} values of {column!r} ({listed(several, 4)}), so it "
            "cannot be in one split: correct the column, or split by another one"
        )
    return values, unit
