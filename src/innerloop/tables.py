"""Tables become tasks: grouped by a task column, or, for a table of classes, by the classes themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .errors import DataError, UsageError
from .frames import as_frame, is_missing, listed, task_ids
from .schema import Schema, labels, target_kind
from .sources import RowSource, SupportSize
from .splits import SHARES, SPLITS, Tasks, parts


def table(
    frame: Any,
    *,
    task: str,
    target: str,
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    kind: str | None = None,
    categorical: Sequence[str] = (),
    split: tuple[float, float, float] = SHARES,
    seed: int = 0,
    n_query: int = 32,
) -> Tasks:
    """Tasks from one table with a task column; the splits have no task in common.

    Arguments:
        frame: path of a CSV file, or a pandas, polars or pyarrow frame of `N` rows; it is not changed.
        task: the column that says which task a row belongs to.
        target: the column to predict.
        n_support: support rows a task, a number or a range such as `1-8`.
        n_shot: support rows a class, for classification; exactly one of the two is given.
        features: columns to use; all others unless given.
        ignore: columns not to use.
        kind: `regression` or `classification`; found out unless given, see `schema.target_kind`.
        categorical: columns whose values are names, numbers among them too.
        split: shares of the tasks for meta-train, meta-validation and meta-test.
        seed: of the split.
        n_query: largest number of query rows of a training episode; evaluation uses all.

    Returns:
        The tasks: `x` is `(N, F)` and, for regression, `y` is `(N, 1)`, both standardised on meta-train.

    Raises:
        DataError: the table cannot be used as it is; the message names the place and the fix.
        UsageError: an argument has no meaning.

    Example:
        >>> rows = np.arange(40.0)
        >>> frame = pd.DataFrame({"site": rows // 8, "dose": rows % 8, "risk": np.sin(rows)})
        >>> table(frame, task="site", target="risk", n_support=3)
        Tasks(table: 5 tasks = 3 train + 1 valid + 1 test, 1 feature, regression, n_support=3)
    """
    support = SupportSize.parse(n_support, n_shot)
    name = Path(frame).stem if isinstance(frame, str | Path) else "table"
    frame = as_frame(frame, task=task)
    notes = list(frame.attrs.get("notes", ()))
    kind = _checked_kind(frame, task=task, target=target, kind=kind, per_class=support.per_class, notes=notes)
    frame, ids = _usable(frame, task, target, notes)
    names, codes, positions = _divide(ids, task, split, seed)
    classes = labels(frame, target) if kind == "classification" else None
    schema = Schema.fit(
        frame[np.isin(codes, positions[0])],
        task=task,
        target=target,
        features=features,
        ignore=ignore,
        kind=kind,
        categorical=categorical,
        classes=classes,
    )
    notes += _gap_notes(schema, frame)
    splits = {part: tuple(names[index].tolist()) for part, index in zip(SPLITS, positions, strict=True)}
    sources = [
        _row_source(frame, schema, codes=codes, names=names, index=index, support=support, n_query=n_query)
        for index in positions
    ]
    _check_sizes(sources, support, classes, notes)
    train, valid, test = sources
    shape = (schema.n_features,)
    return Tasks(train, valid, test, schema.targets, shape, schema, splits, tuple(notes), name)


def from_schema(
    frame: pd.DataFrame,
    schema: Schema,
    ids: Sequence[str] | None,
    support: SupportSize,
    *,
    n_query: int = 32,
) -> RowSource:
    """Tasks of a table by the rules of a schema that was fitted before.

    Arguments:
        frame: rows; those without a target are left out.
        schema: what the columns mean.
        ids: tasks to take; all with two labelled rows or more unless given.
        support: how many rows form a support set.
        n_query: see `table`.

    Returns:
        The source.

    Raises:
        DataError: a column or a task is missing, a task has fewer than two labelled rows, or a value is not
            what its column holds.

    Example:
        >>> frame = pd.DataFrame({"site": list("aabb"), "dose": [1, 2, 3, 4], "risk": [0.1, 0.2, 0.4, 0.9]})
        >>> schema = Schema.fit(frame, task="site", target="risk")
        >>> from_schema(frame, schema, ["b"], SupportSize(1, 1)).ids
        ('b',)
    """
    if schema.task is None:
        raise UsageError("this schema has no task column: it belongs to a table of classes")
    frame = frame[schema.labelled(frame)]
    names, codes = np.unique(task_ids(frame, schema.task).astype(str), return_inverse=True)
    rows = np.bincount(codes, minlength=len(names))
    if ids is None:
        index = np.flatnonzero(rows > 1)
    else:
        place = {name: number for number, name in enumerate(names.tolist())}
        absent = [name for name in ids if name not in place]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(ids)} tasks have no labelled row in the table: {listed(absent)}"
            )
        index = np.array([place[name] for name in ids], dtype=np.int64)
    if not len(index):
        raise DataError(
            f"no task in column {schema.task!r} has two labelled rows: support and query need one each"
        )
    return _row_source(frame, schema, codes=codes, names=names, index=index, support=support, n_query=n_query)


def _divide(
    ids: np.ndarray, task: str, split: Sequence[float], seed: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Names of the tasks, which one each row belongs to, and the tasks of each split."""
    names, codes = np.unique(ids.astype(str), return_inverse=True)
    if len(names) < 3:
        raise DataError(
            f"column {task!r} has {len(names)} task(s) with two labelled rows or more "
            f"({listed(names.tolist())}): the three splits need at least one each; is this the task column?"
        )
    return names, codes, parts(len(names), split, seed)


def _row_source(
    frame: pd.DataFrame,
    schema: Schema,
    *,
    codes: np.ndarray,
    names: np.ndarray,
    index: np.ndarray,
    support: SupportSize,
    n_query: int,
) -> RowSource:
    """The tasks at `index` of `names`, in that order; `codes` is the task of each row."""
    rank = np.full(len(names), -1)
    rank[index] = np.arange(len(index))
    of_row = rank[codes]
    order = np.argsort(of_row, kind="stable")[int((of_row < 0).sum()) :]
    part = frame.iloc[order]
    starts = np.concatenate([[0], np.cumsum(np.bincount(of_row[order], minlength=len(index)))])
    x = torch.from_numpy(schema.encode(part))
    y = torch.from_numpy(schema.encode_target(part))
    return RowSource(x, y, starts, tuple(names[index].tolist()), support, schema.targets, n_query)


def _checked_kind(
    frame: pd.DataFrame, *, task: str, target: str, kind: str | None, per_class: bool, notes: list[str]
) -> str:
    found = target_kind(frame, target, kind, task=task)
    if kind is None:
        count = frame[target].nunique()
        notes.append(f"target {target!r} has {count} different values: {found}")
    if per_class and found == "regression":
        raise UsageError(f"n_shot counts rows a class, but target {target!r} is a number: give n_support")
    return found


def _usable(frame: pd.DataFrame, task: str, target: str, notes: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """Labelled rows of tasks that have two or more, and the task of each."""
    ids = task_ids(frame, task)
    labelled = ~is_missing(frame[target])
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} of {len(frame)} rows have no {target!r} and were dropped")
        frame, ids = frame[labelled], ids[labelled]
    codes, names = pd.factorize(ids)
    small = np.bincount(codes, minlength=len(names)) < 2
    if small.any():
        dropped = listed(np.sort(np.asarray(names[small]).astype(str)).tolist(), 5)
        notes.append(
            f"{int(small.sum())} tasks have fewer than two labelled rows and were dropped: {dropped}"
        )
        frame, ids = frame[~small[codes]], ids[~small[codes]]
    return frame, ids


def _gap_notes(schema: Schema, frame: pd.DataFrame) -> list[str]:
    notes = [
        f"{count} missing values in {name!r}, none in meta-train, were filled with the mean"
        for name, count in schema.gaps(frame).items()
    ]
    marked = [column.name for column in schema.columns if column.missing]
    if marked:
        notes.append(
            f"missing values in {listed(marked)} were filled with the mean and marked in a column each"
        )
    return notes


def _check_sizes(
    sources: Sequence[RowSource], support: SupportSize, classes: Sequence[str] | None, notes: list[str]
) -> None:
    """Note tasks with fewer rows than asked for, and classes that meta-train does not have."""
    rows = np.concatenate([np.diff(source.starts) for source in sources])
    ids = [name for source in sources for name in source.ids]
    if not support.per_class:
        if rows.max() <= support.low:
            largest = int(rows.argmax())
            raise DataError(
                f"n_support={support} needs {support.low + 1} labelled rows, and the largest task, "
                f"{ids[largest]!r}, has {rows[largest]}: lower n_support to {rows[largest] - 1} or less"
            )
        short = int((rows <= support.high).sum())
    else:
        short = sum(_short_of_shots(source, support.high, len(classes or ())) for source in sources)
    if short:
        unit = "rows of a class" if support.per_class else "rows"
        notes.append(
            f"{short} of {len(rows)} tasks have fewer than {support.high + 1} {unit} and give less support"
        )
    if classes is not None:
        seen = set(torch.unique(sources[0].y).tolist())
        unseen = [label for number, label in enumerate(classes) if number not in seen]
        if unseen:
            notes.append(f"no meta-train task has the class {listed(unseen)}")


def _short_of_shots(source: RowSource, n_shot: int, n_classes: int) -> int:
    """Tasks in which a class that they have has fewer than `n_shot + 1` rows."""
    task = np.repeat(np.arange(source.n_tasks), np.diff(source.starts))
    counts = np.bincount(task * n_classes + source.y.numpy(), minlength=source.n_tasks * n_classes)
    counts = counts.reshape(source.n_tasks, n_classes)
    return int(((counts > 0) & (counts <= n_shot)).any(1).sum())
