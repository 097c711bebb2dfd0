"""X, y and groups, as scikit-learn has them, as rows of one table with a task column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from ..errors import DataError, UsageError
from ..tasks.messages import absent_columns
from ..tasks.tables.cells import task_ids
from ..tasks.tables.reading import as_frame

__all__ = [
    "ALL",
    "UNNAMED",
    "Columns",
    "Rows",
    "given_groups",
    "is_frame",
    "only_group",
    "require_targets",
    "rows_of",
]

Rows: TypeAlias = Any  # anything with rows that scikit-learn takes: arrays, lists, frames

ALL = "all"  # the one group of rows that nobody has grouped
UNNAMED = "rows without a group"  # at prediction, rows of which nobody says the group


@dataclass(frozen=True)
class Columns:
    """What the columns of the table are called.

    Arguments:
        features: columns of X that are features, in their order.
        task: the task column.
        targets: the target column, or several.
        task_in_x: the task column is one of X.
        grouped: rows belong to groups; otherwise all are one.
    """

    features: tuple[str, ...]
    task: str
    targets: tuple[str, ...]
    task_in_x: bool
    grouped: bool

    @staticmethod
    def of(X: pd.DataFrame, targets: Sequence[object], groups: Rows | None, *, task: str | None) -> Columns:
        """The names that X, targets and groups bring along, and names for what has none.

        Raises:
            UsageError: the groups are said twice.
            DataError: X has no column of this name, or no other.
        """
        names = [str(name) for name in X.columns]
        if task is not None and groups is not None:
            raise UsageError(f"task={task!r} names the groups, and groups= too: give one of the two")
        if task is not None and task not in names:
            raise DataError(f"task={task!r}: {absent_columns([task], X)}; or give groups= instead")
        features = tuple(name for name in names if name != task)
        if not features:
            raise DataError(f"X has no column beside {task!r}: features are needed")
        of_y: list[str] = []
        for number, name in enumerate(targets):
            plain = "target" if len(targets) == 1 else f"target_{number}"
            of_y.append(_free(name, plain, [*names, *of_y]))
        named = _free(getattr(groups, "name", None), "group", [*names, *of_y])
        given = groups is not None or task is not None
        return Columns(features, named if task is None else task, tuple(of_y), task is not None, given)

    def table(self, X: pd.DataFrame, y: Rows | None = None, groups: Rows | None = None) -> pd.DataFrame:
        """The rows as a table: features, task and, where `y` is given, targets.

        Arguments:
            X: `(n, F)`, see `rows_of`.
            y: `(n,)` or `(n, C)` targets.
            groups: `(n,)` the group of each row, where X does not have it.

        Raises:
            DataError: lengths differ, or the groups are needed, or there is no use for them.
        """
        frame = X if self.task_in_x else X.assign(**{self.task: self._groups(groups, len(X))})
        if y is None:
            return frame
        check_consistent_length(X, y)
        values = np.asarray(y).reshape(len(X), -1)
        return frame.assign(**{name: values[:, number] for number, name in enumerate(self.targets)})

    def groups_of(self, table: pd.DataFrame) -> list[str]:
        """The name of each row's group."""
        return [str(name) for name in task_ids(table, self.task)]

    def _groups(self, groups: Rows | None, count: int) -> Any:
        """The group of each row of an X that does not have it."""
        if groups is None:
            return UNNAMED if self.grouped else ALL
        if not self.grouped:
            raise UsageError("groups= at prediction, and fit had none: give them to fit as well")
        return given_groups(groups, count)


def given_groups(groups: Rows, count: int) -> np.ndarray:
    """The group of each of `count` rows, `(count,)`."""
    values = column_or_1d(groups.to_numpy() if hasattr(groups, "to_numpy") else groups)
    if len(values) != count:
        raise DataError(f"groups has {len(values)} entries and X {count} rows: give the group of each row")
    return np.asarray(values)


def rows_of(X: Rows, *, least: int = 1) -> pd.DataFrame:
    """X as a frame of pandas; arrays get the columns `x0`, `x1`, ...

    Arguments:
        X: a frame of pandas, polars or pyarrow, whose columns may hold numbers, names, dates and gaps; or an array
            or lists.
        least: rows that are needed.

    Raises:
        DataError: it is sparse, or no table of rows.
        TypeError: a cell holds neither number nor text.

    Example:
        >>> rows_of([[1.0, 2.0]]).columns.tolist()
        ['x0', 'x1']
    """
    if sparse.issparse(X):
        raise DataError(f"X is a sparse {type(X).__name__}, and rows of a table are needed: give X.toarray()")
    if is_frame(X):
        frame = as_frame(X) if len(X) else pd.DataFrame(X)
        check_array(np.empty(frame.shape, dtype=np.int8), ensure_min_samples=least, input_name="X")
        # a column of ids may stand in the index of a table, but y and groups of scikit-learn never do
        return frame.set_axis(frame.index.set_names([None] * frame.index.nlevels), axis=0)
    values = check_array(X, dtype=None, ensure_all_finite=False, ensure_min_samples=least, input_name="X")
    names = [f"x{number}" for number in range(values.shape[1])]
    if values.dtype != object:
        return pd.DataFrame(values, columns=names)
    for (row, column), value in np.ndenumerate(values):
        if isinstance(value, Iterable) and not isinstance(value, str):
            raise TypeError(
                f"X, row {row}, column 'x{column}': the argument must be a string or a number, not a "
                f"{type(value).__name__}: give one plain value a cell"
            )
    return pd.DataFrame(values, columns=names).infer_objects()


def is_frame(X: Rows) -> bool:
    """Whether columns have names: a frame of pandas, polars or pyarrow.

    Example:
        >>> is_frame(np.zeros((2, 2)))
        False
    """
    return hasattr(X, "columns") or hasattr(X, "column_names")


def require_targets(estimator: object, y: Rows) -> None:
    """Refuse `None`, in the words of scikit-learn."""
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")


def only_group(groups: np.ndarray, *, why: str) -> str:
    """The one group of all rows.

    Raises:
        DataError: there are several.
    """
    names = np.unique(groups.astype(str))
    if len(names) > 1:
        raise DataError(f"X holds rows of {len(names)} groups ({', '.join(names[:3])}, ...): {why}")
    return str(names[0])


def _free(name: object, otherwise: str, taken: Iterable[str]) -> str:
    """A name that is not taken: the one that was given if it is one, else the other."""
    taken = set(taken)
    found = str(name) if isinstance(name, str) and name and name not in taken else otherwise
    while found in taken:
        found += "_"
    return found
