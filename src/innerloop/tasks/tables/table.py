"""Tables become tasks: grouped by a task column, or, for a table of classes, by the classes themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...encoders import Encoder, use
from ...errors import DataError, UsageError
from ..messages import listed
from ..row_source import RowSource
from ..splits import SHARES, SPLITS, Split, Tasks
from ..support import SupportChoice, SupportSize
from .cells import as_names, factorize, is_missing, sorted_labels
from .deciding import Reading
from .grouping import Grouped, layout, task_splits
from .reading import TableLike, as_frame, table_name
from .schema import Schema
from .targets import labelled_rows, some_known, target_kind, target_names

__all__ = ["RARE", "from_schema", "table"]

# tasks that a level of a category has at least
RARE = 5


def table(
    frame: TableLike,
    *,
    task: str,
    target: str | Sequence[str],
    n_support: int | str | None = None,
    n_shot: int | str | None = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    kind: str | None = None,
    categorical: Sequence[str] = (),
    date_format: Sequence[str] = (),
    decimal: str = ".",
    missing: Sequence[str] = (),
    encoding: str | None = None,
    sheet: str | None = None,
    skip_rows: int = 0,
    header_rows: int = 1,
    skip_footer: int | None = None,
    text: Sequence[str] = (),
    encoder: str | Callable[[Any], Any] | Encoder | None = None,
    labels: str = "shared",
    rare: int = RARE,
    split: Split = SHARES,
    split_by: str | None = None,
    seed: int = 0,
    n_query: int = 32,
    support: str | SupportChoice = "random",
) -> Tasks:
    """Tasks from one table with a task column; the splits have no task in common.

    Arguments:
        frame: path of a CSV file, or a pandas, polars or pyarrow frame of `N` rows; it is not changed.
        task: the column that says which task a row belongs to.
        target: the column to predict, or several for regression.
        n_support: support rows a task, a number or a range such as `1-8`.
        n_shot: support rows a class, for classification; exactly one of the two is given.
        features: columns to use; all others unless given.
        ignore: columns not to use.
        kind: `regression` or `classification`; found out unless given, see `tables.targets.target_kind`.
        categorical: columns whose values are names, numbers among them too.
        date_format: formats of dates, as `strptime` has them; year-month-day, day.month.year and dates with
            slashes that can be read in one way only are recognised without. A date becomes days.
        decimal: what numbers are written with, `.` or `,`; the same at prediction.
        missing: what stands for a gap, such as `-`, in every column but those of ids; the same at prediction.
            Without it, `NA` and the like are gaps in columns of numbers, dates and truth values, and names in others.
        encoding: of a file that is not UTF-8, such as `cp1252`; the same at prediction.
        sheet: of an `.xlsx` file with several.
        skip_rows: lines of a file above the names of its columns; the same at prediction, as the next two.
        header_rows: lines that these names take: those of merged cells above, then those below.
        skip_footer: lines below the rows, such as totals; 0 says that what looks like one is a row.
        text: columns of texts, which an encoder turns into features; they are not standardised.
        encoder: its name, or a function of yours from a list of texts to an array (`innerloop.encoders`).
        labels: `shared` if a class means the same in every task; `per_task` if each task has classes of its own,
            which only its support explains. Then tasks with a single class are dropped.
        rare: levels of a category that fewer tasks of meta-train have are taken together, as none of the levels:
            they tell little, and a model directory would name whom they are of. 0 keeps all.
        split: shares of the tasks for meta-train, meta-validation and meta-test; or the tasks of each,
            `{"train": [...], "valid": [...], "test": [...]}`; or a CSV file with the columns task and split; or
            a `splits.Fold`; or `hash`, by a hash of the name and the seed, so that tasks that come later change the
            place of none; or `splits.NoTest`.
        split_by: a coarser column than the task, such as the clinic: what is divided are its values, so that
            all tasks of a clinic are in one split. It is no feature unless it is named in `features`.
        seed: of the split.
        n_query: largest number of query rows of a training episode; evaluation uses all.
        support: which rows are support: `random` ones; `order:COLUMN`, the first ones by a column, query
            rows come later (ties keep the order of the table); `block:COLUMN`, those of one block, query rows
            come from others. A block is no feature unless it is named in `features`. Rows without a value in the
            column, and tasks with a single block, are dropped and counted.

    Returns:
        The tasks: `x` is `(N, F)` and, for regression, `y` is `(N, C)`, both standardised on meta-train.

    Raises:
        DataError: the table cannot be used as it is; the message names the place and the fix.
        UsageError: an argument has no meaning.

    Example:
        >>> rows = np.arange(40.0)
        >>> frame = pd.DataFrame({"site": rows // 8, "dose": rows % 8, "risk": np.sin(rows)})
        >>> table(frame, task="site", target="risk", n_support=3)
        Tasks(table: 5 tasks = 3 train + 1 valid + 1 test, 1 feature, regression, n_support=3)
    """
    size = SupportSize.parse(n_support, n_shot, support)
    name = table_name(frame)
    reading = Reading.of({
        "task": task, "target": target, "kind": kind, "categorical": categorical, "split_by": split_by,
        "support": support, "date_format": date_format, "decimal": decimal, "missing": missing,
        "encoding": encoding, "sheet": sheet, "text": text,
        "skip_rows": skip_rows, "header_rows": header_rows, "skip_footer": skip_footer,
    })  # fmt: skip
    used = None if encoder is None else use(encoder)
    frame = whole = as_frame(frame, reading=reading)
    task, split_by = str(task), None if split_by is None else str(split_by)
    notes = list(frame.attrs.get("notes", ()))
    kind = _checked_kind(frame, task=task, target=target, kind=kind, per_class=size.per_class, notes=notes)
    targets = target_names(target)
    if size.choice.column in targets:
        raise UsageError(
            f"support={size.choice}: {size.choice.column!r} is the target, and what is to be predicted cannot say "
            "what is known; name another column"
        )
    rows = _usable(Grouped.by(task, frame), targets, size.choice, notes)
    own_classes = _own_classes(labels, kind)
    if own_classes:
        rows = rows.without(rows.n_distinct(targets[0]) == 1, "one class of their own", notes)
    rows = rows.compact()
    positions = task_splits(rows, whole, task=task, split_by=split_by, split=split, seed=seed)
    if features is None:
        ignore = [*as_names(ignore), *(name for name in (size.block, split_by) if name is not None)]
    classes = sorted_labels(rows.frame[targets[0]]) if kind == "classification" else None
    schema = Schema.fit(
        rows.frame[np.isin(rows.codes, positions[0])], whole=whole, task=task, target=target, features=features,
        ignore=ignore, kind=kind, categorical=categorical, classes=classes, date_format=date_format, decimal=decimal,
        missing=missing, encoding=encoding, rare=rare, text=text, encoder=used, shape=reading.shape,
    )  # fmt: skip
    notes += _rare_notes(schema, rare)
    if own_classes:
        n_way = int(rows.n_distinct(schema.target).max(initial=0))
        schema, classes = replace(schema, classes=(), n_way=n_way), None
        notes.append(
            f"each task has classes of its own, {n_way} at most; only its support says what they mean"
        )
    notes += _gap_notes(schema, rows.frame)
    splits = {part: tuple(rows.names[index].tolist()) for part, index in zip(SPLITS, positions, strict=True)}
    sources = _row_sources(
        rows, schema, positions, support=size, n_query=n_query, date_format=as_names(date_format)
    )
    _check_sizes(sources, size, classes, notes)
    if own_classes:
        sources, more = _marked(sources, rows.frame, schema)
        notes += more
    train, valid, test = sources
    shape = (schema.n_features,)
    return Tasks(train, valid, test, schema.targets, shape, schema, splits, tuple(notes), name)


def from_schema(
    frame: pd.DataFrame, schema: Schema, ids: Sequence[str] | None, support: SupportSize, *, n_query: int = 32
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
    rows = Grouped.by(schema.task, frame[schema.labelled(frame)]).supported(support.choice, []).compact()
    if ids is None:
        index = np.flatnonzero(rows.sizes > 1)
    else:
        position = {name: number for number, name in enumerate(rows.names.tolist())}
        absent = [name for name in ids if name not in position]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(ids)} tasks have no labelled row in the table: {listed(absent)}"
            )
        index = np.array([position[name] for name in ids], dtype=np.int64)
    if not len(index):
        raise DataError(
            f"no task in column {schema.task!r} has two labelled rows: support and query need one each"
        )
    rows = rows.only(np.isin(rows.codes, index))
    return _row_sources(rows, schema, [index], support=support, n_query=n_query)[0]


def _row_sources(
    rows: Grouped,
    schema: Schema,
    parts: Sequence[np.ndarray],
    *,
    support: SupportSize,
    n_query: int,
    date_format: Sequence[str] = (),
) -> list[RowSource]:
    """For each part, the tasks at its positions in `rows.names`, in that order."""
    frame, n_tasks = rows.frame, len(rows.names)
    x, y = torch.from_numpy(schema.encode(frame)), torch.from_numpy(schema.encode_target(frame))
    known = [column.formats for column in schema.columns if column.name == support.choice.column]
    formats = next(filter(None, known), tuple(date_format))

    def source(index: np.ndarray) -> RowSource:
        rank = np.full(n_tasks, -1, dtype=np.min_scalar_type(-max(n_tasks, 1)))
        rank[index] = np.arange(len(index))
        of_row = rank[rows.codes]
        order, blocks = layout(frame, str(schema.task), of_row, support.choice, formats)
        starts = np.concatenate([[0], np.cumsum(np.bincount(of_row[order], minlength=len(index)))])
        return RowSource(
            x[order], y[order], starts, tuple(rows.names[index].tolist()), support, schema.targets, n_query,
            blocks=blocks, own_classes=schema.n_way > 0, standardised=True,
        )  # fmt: skip

    return [source(index) for index in parts]


def _checked_kind(
    frame: pd.DataFrame,
    *,
    task: str,
    target: str | Sequence[str],
    kind: str | None,
    per_class: bool,
    notes: list[str],
) -> str:
    decided = target_kind(frame, target, kind, task=task)
    for name in target_names(target) if kind is None else ():
        notes.append(f"target {name!r} has {len(factorize(frame[name])[1])} different values: {decided}")
    if per_class and decided == "regression":
        raise UsageError(
            f"n_shot counts rows a class, but target {target!r} is a number: give n_support; or, if its numbers are "
            "classes, say so (--kind classification)"
        )
    return decided


def _usable(rows: Grouped, targets: Sequence[str], choice: SupportChoice, notes: list[str]) -> Grouped:
    """Rows with a target, one of several at least, of tasks that have two or more."""
    partial = some_known(rows.frame, targets)
    known = {name: labelled_rows(rows.frame, [name]) for name in targets}
    labelled = np.any([*known.values()], axis=0)
    what, nothing = listed(targets), "none of" if len(targets) > 1 else "no"
    if not labelled.any():
        raise DataError(
            f"none of the {len(labelled)} rows has a value in the target {what}: training needs rows with a target; "
            "to predict these, give them to innerloop predict",
            column=targets[0],
        )
    if not labelled.all():
        notes.append(
            f"{int((~labelled).sum())} of {len(labelled)} rows have {nothing} {what} and were dropped"
        )
        rows = rows.only(labelled)
    if partial:
        counts = [f"{name!r} in {int(own.sum())}" for name, own in known.items()]
        notes.append(
            f"of {int(labelled.sum())} rows with a target, {' and '.join(counts)} are known: each row is used for the "
            "targets that it knows"
        )
    rows = rows.supported(choice, notes)
    return rows.without(rows.sizes == 1, "fewer than two labelled rows", notes)


def _own_classes(labels: str, kind: str) -> bool:
    """Whether each task has classes of its own."""
    if labels not in ("shared", "per_task"):
        raise UsageError(f"labels={labels!r} is unknown: choose shared or per_task")
    if labels == "per_task" and kind == "regression":
        raise UsageError(
            "labels='per_task' is for classes, and the target is a number: leave it out, or give "
            "kind='classification' (--kind classification)"
        )
    return labels == "per_task"


def _marked(
    sources: Sequence[RowSource], frame: pd.DataFrame, schema: Schema
) -> tuple[list[RowSource], list[str]]:
    """The sources, which know how many of their classes meta-train tasks have too, and a note on the last one."""
    own = schema.own_labels(frame)
    names = [{label for task in source.ids for label in own[task]} for source in sources]
    marked = [
        replace(source, trained_classes=(len(each & names[0]), len(each)))
        for source, each in zip(sources, names, strict=True)
    ]
    seen, every = len(names[-1] & names[0]), len(names[-1])
    if not seen:
        return marked, []
    return marked, [
        f"{seen} of the {every} classes of meta-test tasks occur in meta-train tasks: scores are those of known "
        "classes; for new ones, draw tasks from classes (--n-way, without --task)"
    ]


def _rare_notes(schema: Schema, rare: int) -> list[str]:
    """Which categories lost levels; refuse a table of which nothing is left."""
    merged = [column for column in schema.columns if column.merged]
    if schema.n_features == 0:
        raise DataError(
            f"no feature is left: every level of {listed([column.name for column in merged])} is in fewer than {rare} "
            "tasks of meta-train; keep them (--rare 0), or add a column"
        )
    return [
        f"{column.merged} of {column.merged + len(column.levels)} levels of {column.name!r} are in fewer than {rare} "
        "tasks of meta-train and count as one, none of the others (--rare 0 keeps them)"
        for column in merged
    ]


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
    nameless = [c.name for c in schema.columns if c.kind == "category" and is_missing(frame[c.name]).any()]
    if nameless:
        notes.append(f"missing values in {listed(nameless)} count as none of the names there")
    notes += [
        f"{count} rows have a value of {name!r} that no meta-train row has: it counts as none of its values"
        for name, count in schema.unseen(frame).items()
        if not any(column.merged for column in schema.columns if column.name == name)
    ]
    if schema.task_columns:
        notes.append(f"task columns, constant within every task: {listed(schema.task_columns)}")
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
        short = sum(_short_of_shots(source, support.high) for source in sources)
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


def _short_of_shots(source: RowSource, n_shot: int) -> int:
    """Tasks in which a class that they have has fewer than `n_shot + 1` rows."""
    task = np.repeat(np.arange(source.n_tasks), np.diff(source.starts))
    n_classes = source.targets.n_outputs
    counts = np.bincount(task * n_classes + source.y.numpy(), minlength=source.n_tasks * n_classes)
    counts = counts.reshape(-1, n_classes)
    return int(((counts > 0) & (counts <= n_shot)).any(1).sum())
