"""Tasks from arrays: rows of any shape with a target and a task each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import DataError
from .array_values import as_array, feature_tensor
from .messages import absent_columns
from .row_source import RowSource
from .sources import Source
from .splits import SHARES, Split, Tasks
from .tables.cells import factorize
from .tables.table import table
from .tables.targets import labelled_rows, target_kind, target_names

__all__ = ["SizeOfSupport", "arrays", "default_support"]


class SizeOfSupport(TypedDict, total=False):
    """Rows of a support set, one of the two."""

    n_support: int | str | None
    n_shot: int | str | None


def arrays(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    task: ArrayLike | Tensor,
    *,
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    kind: str | None = None,
    split: Split = SHARES,
    seed: int = 0,
    n_query: int = 32,
) -> Tasks:
    """Tasks from arrays: row `i` of `x` and `y` belongs to task `task[i]`.

    Arguments:
        x: `(N, F)` features, which are standardised on meta-train; or `(N, *feature)` such as images, which
            are used as they are (bytes become 0 to 1).
        y: `(N,)` or `(N, C)` targets, or `(N,)` classes.
        task: `(N,)` task of each row, text or numbers.
        n_support: support rows a task; 5 unless given, for regression.
        n_shot: support rows a class; 3 unless given, for classification.
        kind: `regression` or `classification`; found out unless given, see `tables.targets.target_kind`.
        split: see `table`.
        seed: of the split.
        n_query: largest number of query rows of a training episode.

    Returns:
        The tasks; features are called `x0`, `x1`, ... in the schema, targets `y`, or `y0`, `y1`, ...

    Raises:
        DataError: shapes do not fit, or values cannot be used.
        UsageError: an argument has no meaning.

    Example:
        >>> x = np.arange(40.0).reshape(20, 2)
        >>> arrays(x, np.sin(x[:, 0]), np.arange(20) // 4, n_support=2)
        Tasks(arrays: 5 tasks = 3 train + 1 valid + 1 test, 2 features, regression, n_support=2)
    """
    rows, targets, owners = as_array(x, "x"), as_array(y, "y"), as_array(task, "task")
    if not len(rows):
        raise DataError("x has no row: give rows of several tasks")
    for values, name in ((targets, "y"), (owners, "task")):
        if len(values) != len(rows):
            raise DataError(f"x has {len(rows)} rows and {name} {len(values)}: give one for each row")
    if owners.ndim != 1 or targets.ndim > 2:
        raise DataError(f"task has shape {owners.shape} and y {targets.shape}: give (N,), and (N,) or (N, C)")
    targets = targets.reshape(len(rows), -1)
    names = [f"y{number}" for number in range(targets.shape[1])] if targets.shape[1] != 1 else ["y"]
    frame = pd.DataFrame({"task": owners, **dict(zip(names, targets.T, strict=True))})
    target = names if len(names) > 1 else "y"
    size: SizeOfSupport = {"n_support": n_support, "n_shot": n_shot}
    if not (n_support or n_shot):
        size = default_support(frame, target, kind, "task")
    flat = rows.ndim <= 2
    if flat:
        columns = pd.DataFrame(rows.reshape(len(rows), -1))
        frame = pd.concat([frame, columns.rename(columns=lambda number: f"x{number}")], axis=1)
    else:
        # what is no vector is used as it is: the table divides the rows, and its one column says which row it is
        frame["row"] = np.arange(len(rows), dtype=np.float64)
    tasks = table(
        frame, task="task", target=target, kind=kind, split=split, seed=seed, n_query=n_query, **size
    )
    return (tasks if flat else _with_rows(tasks, rows)).renamed("arrays")


def default_support(
    frame: pd.DataFrame, target: str | Sequence[str], kind: str | None, task: str
) -> SizeOfSupport:
    """5 rows a task, or 3 rows a class; fewer where half of the tasks have too few for a query of that size.

    Example:
        >>> frame = pd.DataFrame({"site": list("aaaabbbb"), "risk": range(8)})
        >>> default_support(frame, "risk", None, "site")
        {'n_support': 2}
    """
    kind = target_kind(frame, target, kind, task=task)
    if task not in frame:
        raise DataError(absent_columns([task], frame))
    if kind == "classification":
        return {"n_shot": 3}
    codes, _ = factorize(frame[task])
    known = np.any([labelled_rows(frame, [name]) for name in target_names(target)], axis=0)
    rows = np.bincount(codes[(codes >= 0) & known])
    rows = rows[rows > 1]
    middle = int(np.median(rows)) if len(rows) else 2
    return {"n_support": max(1, min(5, middle // 2))}


def _with_rows(tasks: Tasks, rows: np.ndarray) -> Tasks:
    """The same tasks with rows of any shape in place of their numbers."""
    assert tasks.schema is not None
    features, number = feature_tensor(rows), tasks.schema.columns[0]

    def whole(source: Source) -> RowSource:
        assert isinstance(source, RowSource)
        index = (source.x[:, 0].double() * number.scale + number.mean).round().long()
        return replace(source, x=features[index], standardised=False)

    classes = ", ".join(f"{number} is {name!r}" for number, name in enumerate(tasks.schema.classes[:20]))
    return replace(
        tasks,
        train=whole(tasks.train),
        valid=whole(tasks.valid),
        test=whole(tasks.test),
        feature_shape=rows.shape[1:],
        schema=None,
        notes=(*tasks.notes, *([f"classes: {classes}"] if classes else [])),
    )
