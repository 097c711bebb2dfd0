"""Adapting a model to the tasks of a table and predicting its rows: grouping by task, encoding, scaling back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import DataError, DivergedError, UsageError
from ..evaluation.conformal import Calibration
from ..inner.batched import adapt_tasks, predict_adapted, predict_tasks, support_losses
from ..inner.learner import require_steps
from ..inner.model import Adapted, Model
from ..tasks.episodes import Batch
from ..tasks.tables.cells import task_ids, where
from ..tasks.tables.reading import TableLike, as_frame
from ..tasks.tables.schema import Schema
from .interval_columns import PERCENTILE, Intervals, interval_columns, interval_names, margins

__all__ = [
    "TableTasks",
    "adapt_rows",
    "predict_by_support",
    "predict_by_tasks",
    "refuse_taken",
    "require_inner_steps",
    "row_tasks",
    "with_columns",
]

Frame = TypeVar("Frame", bound=TableLike)


class TableTasks(NamedTuple):
    """A model adapted to the tasks of a table.

    Arguments:
        adapted: what each task predicts with, by its id.
        n_support: rows each was adapted to.
        labels: the classes of each task, where tasks have classes of their own.
        percentile: how many percent of the calibration tasks have a smaller support loss, where that was asked.
    """

    adapted: dict[str, Adapted]
    n_support: dict[str, int]
    labels: dict[str, tuple[str, ...]]
    percentile: dict[str, float]


def row_tasks(schema: Schema, frame: pd.DataFrame) -> np.ndarray:
    """The task of each row as text, `(n,)`; one for all where there is no task column."""
    if schema.task is None:
        return np.full(len(frame), "all")
    return task_ids(frame, schema.task).astype(str)


def adapt_rows(
    model: Model,
    schema: Schema,
    frame: pd.DataFrame,
    *,
    steps: int | None,
    calibration: Calibration | None = None,
) -> TableTasks:
    """Adapt to each task of a table by its labelled rows; tasks without any are left out."""
    frame = frame[schema.labelled(frame)]
    if frame.empty:
        raise DataError(f"the table has no row with a value in the target {schema.target!r}: fill some in")
    groups = _by_task(schema, frame)
    x = torch.from_numpy(schema.encode(frame))
    supports = _supports(schema, frame, x, list(groups.values()))
    adapted = adapt_tasks(model, supports, steps=steps)
    percentile = (
        dict(zip(groups, _percentiles(calibration, adapted, supports), strict=True)) if calibration else {}
    )
    return TableTasks(
        dict(zip(groups, adapted, strict=True)),
        {task: len(rows) for task, rows in groups.items()},
        schema.own_labels(frame) if schema.n_way else {},
        {task: share for task, share in percentile.items() if not math.isnan(share)},
    )


def predict_by_support(
    model: Model,
    schema: Schema,
    frame: pd.DataFrame,
    *,
    steps: int | None,
    known: TableTasks,
    intervals: Intervals | None = None,
) -> pd.DataFrame:
    """The new columns of a table whose labelled rows are the support of their tasks.

    Tasks without such a row are predicted as they are `known`, or by the base.
    """
    labelled, asked = schema.labelled(frame), schema.unlabelled(frame)
    x = torch.from_numpy(schema.encode(frame))
    groups = {task: rows for task, rows in _by_task(schema, frame).items() if asked[rows].any()}
    without = [task for task, rows in groups.items() if not labelled[rows].any()]
    old = {task: groups.pop(task) for task in without if task in known.adapted}
    support = [rows[labelled[rows]] for rows in groups.values()]
    query = [*old.values(), *(rows[asked[rows]] for rows in groups.values())]
    supports, queries = _supports(schema, frame, x, support), [x[rows] for rows in query]
    before = [known.adapted[task] for task in old]
    if intervals is None:
        values = predict_adapted(before, queries[: len(old)])
        values += predict_tasks(model, supports, queries[len(old) :], steps=steps)
        predicted = _Predicted(query, values)
    else:
        new = adapt_tasks(model, supports, steps=steps)
        counts = [*(known.n_support[task] for task in old), *(len(rows) for rows in support)]
        predicted = _Predicted(
            query,
            predict_adapted([*before, *new], queries),
            margins(intervals, [*before, *new], queries, counts),
            [
                *(known.percentile.get(task, math.nan) for task in old),
                *_percentiles(intervals.calibration, new, supports),
            ],
        )
    labels = schema.own_labels(frame.iloc[np.concatenate(support)]) if schema.n_way and groups else {}
    names, codes = np.unique(row_tasks(schema, frame), return_inverse=True)
    rows_of = np.bincount(codes[labelled], minlength=len(names))
    of_old = np.array(
        [known.n_support[task] if task in old else 0 for task in names.tolist()], dtype=np.int64
    )
    columns = _columns(schema, frame, predicted, n_support=(rows_of + of_old)[codes], labels=labels)
    return _without_known(schema, frame, columns) if schema.partial else columns


def predict_by_tasks(
    tasks: TableTasks,
    base: Adapted,
    schema: Schema,
    frame: pd.DataFrame,
    *,
    intervals: Intervals | None = None,
) -> pd.DataFrame:
    """The new columns of a table, every row predicted by its adapted task, or by `base` where there is none."""
    x = torch.from_numpy(schema.encode(frame))
    groups = _by_task(schema, frame)
    rows = list(groups.values())
    adapted, queries = [tasks.adapted.get(task, base) for task in groups], [x[part] for part in rows]
    counts = [tasks.n_support.get(task, 0) for task in groups]
    predicted = _Predicted(rows, predict_adapted(adapted, queries))
    if intervals is not None:
        predicted = predicted._replace(
            margins=margins(intervals, adapted, queries, counts),
            percentiles=[tasks.percentile.get(task, math.nan) for task in groups],
        )
    n_support = np.zeros(len(frame), dtype=np.int64)
    for count, part in zip(counts, rows, strict=True):
        n_support[part] = count
    return _columns(schema, frame, predicted, n_support=n_support, labels=tasks.labels)


def require_inner_steps(model: Model, inner_steps: int | None) -> None:
    """Refuse a number of inner steps that is negative, or for what adapts without any."""
    if inner_steps is None:
        return
    require_steps(inner_steps)
    if model.learner.closed_form:
        raise UsageError(
            f"inner_steps={inner_steps}: this model adapts by a closed form, which has no steps: leave it out"
        )


def refuse_taken(schema: Schema, frame: pd.DataFrame, *, intervals: Intervals | None = None) -> None:
    """Refuse a table that has one of the new columns already."""
    new = [*schema.decode(np.empty((0, schema.n_outputs))), "n_support"]
    new += interval_names(schema) if intervals else []
    if taken := [name for name in new if name in frame]:
        raise DataError(f"the table has a column {taken[0]!r} already: rename it or leave it out")


def with_columns(frame: Frame, new: pd.DataFrame) -> Frame:
    """A frame of pandas, polars or pyarrow with further columns; any other becomes one of pandas."""
    wider: Any = frame
    library = type(frame).__module__.partition(".")[0]
    if library == "polars":
        import polars

        wider = wider.hstack(polars.from_pandas(new))
    elif library == "pyarrow":
        import pyarrow

        for name, column in new.items():
            wider = wider.append_column(name, pyarrow.array(column, from_pandas=True))
    else:
        wider = pd.concat([wider if isinstance(wider, pd.DataFrame) else as_frame(wider), new], axis=1)
    return cast("Frame", wider)


def _by_task(schema: Schema, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Positions of the rows of each task, tasks in the order of their first row."""
    names, first, codes = np.unique(row_tasks(schema, frame), return_index=True, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    return {str(names[task]): groups[task] for task in np.argsort(first)}


def _supports(schema: Schema, frame: pd.DataFrame, x: Tensor, positions: Sequence[np.ndarray]) -> list[Batch]:
    """The support set of each task; a task may have no row."""
    rows = np.concatenate([*positions, np.empty(0, dtype=np.int64)])
    if len(rows):
        y = torch.from_numpy(schema.encode_target(frame.iloc[rows]))
    elif schema.kind == "regression":
        y = x.new_zeros(0, schema.n_outputs)
    else:
        y = x.new_zeros(0, dtype=torch.int64)
    sizes = [len(part) for part in positions]
    return [Batch(*part) for part in zip(torch.split(x[rows], sizes), torch.split(y, sizes), strict=True)]


class _Predicted(NamedTuple):
    """Predictions of the tasks of a table.

    Arguments:
        rows: positions of the predicted rows of each task.
        values: predictions of each task, `(n, C)`.
        margins: of intervals, see `interval_columns.margins`; `None` where none are asked for.
        percentiles: of the support loss of each task, likewise.
    """

    rows: Sequence[np.ndarray]
    values: Sequence[Tensor]
    margins: Sequence[np.ndarray] | None = None
    percentiles: Sequence[float] = ()


def _percentiles(
    calibration: Calibration, adapted: Sequence[Adapted], supports: Sequence[Batch]
) -> list[float]:
    pairs = zip(supports, support_losses(adapted, supports), strict=True)
    return [calibration.percentile(support.rows, loss) for support, loss in pairs]


def _columns(
    schema: Schema,
    frame: pd.DataFrame,
    predicted: _Predicted,
    *,
    n_support: np.ndarray,
    labels: dict[str, tuple[str, ...]],
) -> pd.DataFrame:
    """Predictions of each task as columns of the table; missing where a row was not predicted."""
    values, there = np.zeros((len(frame), schema.n_outputs)), np.zeros(len(frame), dtype=bool)
    for rows, part in zip(predicted.rows, predicted.values, strict=True):
        values[rows], there[rows] = part.cpu().numpy(), True
    of_row = [labels.get(task, ()) for task in row_tasks(schema, frame)] if schema.n_way else []
    _require_finite(schema, frame, values)
    decoded = schema.decode(values, of_row)
    if schema.kind == "regression":
        _require_finite(schema, frame, np.stack([*decoded.values()], axis=1))
    if predicted.margins is not None:
        margin = np.full((len(frame), schema.n_outputs if schema.kind == "regression" else 1), np.nan)
        percentile = np.full(len(frame), np.nan)
        for rows, own, share in zip(predicted.rows, predicted.margins, predicted.percentiles, strict=True):
            margin[rows], percentile[rows] = own, share
        decoded |= {**interval_columns(schema, values, margin, of_row), PERCENTILE: percentile}
    columns = {name: pd.Series(column, frame.index).where(there) for name, column in decoded.items()}
    return pd.DataFrame({**columns, "n_support": pd.Series(n_support, frame.index)})


def _without_known(schema: Schema, frame: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """The columns without predictions of targets that a row knows itself."""
    for target, known in zip(schema.target_columns, schema.known(frame).T, strict=True):
        names = [f"{what}_{target.name}" for what in ("prediction", "lower", "upper")]
        for name in columns.columns.intersection(names):
            columns[name] = columns[name].where(~known)
    return columns


def _require_finite(schema: Schema, frame: pd.DataFrame, values: np.ndarray) -> None:
    """Refuse predictions of a task whose adaptation diverged, which a table would show as empty cells."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        tasks = [*dict.fromkeys(row_tasks(schema, frame)[bad].tolist())]
        more = f" (and of {len(tasks) - 1} more tasks)" if len(tasks) > 1 else ""
        raise DivergedError(
            f"{where(frame, bad[0], schema.task)}: {len(bad)} predictions of this task{more} are not finite, "
            "because adaptation diverged or a value is far from those of training: leave the task out, or train with "
            "a smaller --inner-lr",
            task=tasks[0],
        )
