"""Look at data before training: everything that is wrong at once, and what was understood.

An error is what training would refuse; a warning is what it would accept and what may make a score worthless;
a note is what was decided. The rules are those of training: here they are collected where training stops.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import Collector, InnerloopError
from . import leaks
from .encoded import load_encoded
from .recognise import Options, given_options, layout_of, open_tasks, without_task
from .soundness import doubts
from .sources import ClassSource, RowSource
from .splits import Tasks
from .tables.cells import task_ids
from .tables.columns import Column
from .tables.deciding import Reading
from .tables.reading import as_frame, read_table
from .tables.schema import Schema
from .tables.targets import target_kind, target_names

__all__ = ["Finding", "Report", "check"]


@dataclass(frozen=True)
class Finding:
    """An error, a warning or a note about data.

    Arguments:
        severity: `error`, `warning` or `note`.
        message: what it is and where.
        fix: what to do about it; empty for a note.
        task: where, as far as it is known.
        column: see `task`.
        row: see `task`; the line of a file.
        file: see `task`.
    """

    severity: str
    message: str
    fix: str = ""
    task: str | None = None
    column: str | None = None
    row: str | None = None
    file: str | None = None

    @staticmethod
    def of(error: InnerloopError) -> Finding:
        """What an error says; by convention its fix stands behind the last colon."""
        message, _, fix = str(error).rpartition(": ")
        known = ("task", "column", "row", "file")
        where = {key: value for key, value in error.place.items() if key in known}
        return Finding("error", message or fix, fix if message else "", **where)

    def __str__(self) -> str:
        """One line."""
        return f"{self.severity}: {self.message}{': ' if self.fix else ''}{self.fix}"


@dataclass(frozen=True)
class Report:
    """All findings of `check`.

    Arguments:
        layout: what the data was recognised as; `None` where it was not.
        findings: errors first, then warnings and notes.
        understood: tasks, rows, classes, columns and the split, as far as they could be made out.
    """

    layout: str | None
    findings: tuple[Finding, ...]
    understood: dict[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What training would refuse."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def ok(self) -> bool:
        """There is no error."""
        return not self.errors

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self) | {"ok": self.ok}

    def table(self) -> list[tuple[str, str]]:
        """What was understood, as rows of two cells."""
        rows = [("layout", self.layout or "not recognised")]
        for name, value in self.understood.items():
            if name == "columns":
                rows += [(f"column {column['name']}", column["about"]) for column in value]
            elif isinstance(value, dict):
                rows.append((name, ", ".join(f"{count} {part}" for part, count in value.items())))
            elif value not in (None, "", []):
                rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
        return rows


def check(data: Any, **options: Any) -> Report:
    """Look at data as training would, and collect everything that is wrong.

    Arguments:
        data: anything that `tasks.open` takes.
        options: the same as there.

    Returns:
        The report; `report.ok` says whether training would accept the data.

    Example:
        >>> frame = pd.DataFrame(
        ...     {"site": list("aabbcc"), "dose": ["1", "x", "3", "4", "5", "6"], "y": range(6)}
        ... )
        >>> report = check(frame, task="site", target="y", n_support=1)
        >>> report.ok, report.errors[0].task, report.errors[0].column, report.errors[0].row
        (False, 'a', 'dose', '1')
    """
    guard = Collector()
    given, layout = dict[str, Any](), ""
    understood, warnings, notes = dict[str, object](), list[Finding](), tuple[str, ...]()
    with guard():
        given = given_options(options)
        layout = layout_of(data, given)
    ready = data
    if layout in ("table", "folder of tables"):
        with guard():
            ready = frame = _frame(data, given, guard)
            warnings = _look_at(frame, given, guard, understood)
    elif layout == "images":
        with guard():
            load_encoded(
                Path(data),
                given.get("encoder"),
                size=given.get("image_size"),
                skip_bad="skip_bad" in given,
                guard=guard,
            )
    if layout and not guard.found:
        if layout == "folder of tables" and "n_way" not in given:
            given = {"task": "task"} | given  # the folder was read: it is a frame with a task column
        with guard():
            tasks = open_tasks(ready, **given)
            understood |= _understood(tasks)
            warnings += [_warning(text) for text in doubts(tasks)]
            told = {f"{each.message}: {each.fix}" for each in warnings}
            notes = tuple(note for note in tasks.notes if note not in told)
    errors = dict.fromkeys(map(Finding.of, guard.found))
    return Report(
        layout or None, (*errors, *warnings, *(Finding("note", note) for note in notes)), understood
    )


def _frame(data: Any, given: Options, guard: Collector) -> pd.DataFrame:
    """The table, all its columns; files that differ from the others are errors."""
    if not isinstance(data, str | Path):
        return as_frame(data, reading=Reading.of(given))
    if Path(data).is_dir() and "n_way" not in given:
        given = {"task": "task"} | given
    return read_table(data, task=given.get("task"), reading=Reading.of(given), guard=guard)


def _look_at(
    frame: pd.DataFrame, given: Options, guard: Collector, understood: dict[str, Any]
) -> list[Finding]:
    """Go through ids, target and every column of a table; what is suspicious comes back."""
    understood |= {"rows": len(frame), "column names": [str(name) for name in frame.columns]}
    if "target" not in given:
        return []  # `open_tasks` says so
    target = given["target"]
    task = given.get("task") or ("task" if "task" in frame and "n_way" not in given else None)
    ids = None
    with guard():
        if task is not None:
            ids = task_ids(frame, task)
            understood["tasks"] = len(set(ids))
        elif not {"n_way", "encoder"} & set(given):
            raise without_task(list(frame.columns))
    usable = None if ids is None else task
    with guard():
        understood["kind"] = target_kind(frame, target, given.get("kind"), task=usable)
    if any(name not in frame for name in (*target_names(target), *filter(None, [task]))):
        return []
    choice = {
        key: given[key]
        for key in ("features", "ignore", "categorical", "date_format", "text", "encoder")
        if key in given
    }
    if task != usable and "features" not in choice:
        choice["ignore"] = [*choice.get("ignore", ()), task]  # its ids cannot be used
    features: list[str] = []
    with guard():
        schema = Schema.fit(
            frame, task=usable, target=target, kind=understood.get("kind"), guard=guard, **choice
        )
        features = [column.name for column in schema.columns]
    return _suspicions(frame, usable, ids, target_names(target), features)


def _suspicions(
    frame: pd.DataFrame, task: str | None, ids: np.ndarray | None, targets: list[str], features: list[str]
) -> list[Finding]:
    """Signs of leakage and of values that are not what they seem."""
    used = [*features, *targets]
    of_tasks: list[tuple[str, str]] = []
    of_columns: list[tuple[str, str]] = []
    if task is not None and ids is not None and features:
        rows = frame[[task, *used]]
        of_tasks += leaks.twin_values(frame, task, "task ids", "one task")
        of_tasks += leaks.repeated_rows(rows, task, ids) + leaks.copied_tasks(rows, task, ids)
    for name in used:
        twins = leaks.twin_values(frame, name, f"in column {name!r} the values", "one name")
        of_columns += [(name, text) for _, text in twins] + leaks.stand_ins(frame, name)
    of_columns += leaks.row_numbers(frame, features)
    for target in targets:
        of_columns += leaks.telling_columns(frame, target, features)
    return [_warning(text, task=name) for name, text in of_tasks] + [
        _warning(text, column=name) for name, text in of_columns
    ]


def _warning(text: str, **where: str) -> Finding:
    message, _, fix = text.rpartition(": ")
    return Finding("warning", message, fix, **where)


def _understood(tasks: Tasks) -> dict[str, Any]:
    """What training would work with."""
    targets, source, schema = tasks.targets, tasks.train, tasks.schema
    facts: dict[str, Any] = {"kind": targets.kind, "outputs": targets.n_outputs}
    if tasks.splits:
        facts["split"] = {part: len(names) for part, names in tasks.splits.items()}
        unit = "classes" if isinstance(source, ClassSource) else "tasks"
        facts[unit] = sum(facts["split"].values())
    if isinstance(source, RowSource):
        sizes = np.concatenate([np.diff(part.starts) for part in (source, tasks.valid, tasks.test)])  # type: ignore[attr-defined]
        facts["rows a task"] = f"{sizes.min()} to {sizes.max()}, median {int(np.median(sizes))}"
    facts["support"] = f"{source.support} rows a {'class' if source.support.per_class else 'task'}"
    facts["shape of a row"] = "x".join(map(str, tasks.feature_shape))
    if schema is not None:
        facts["column names"] = []
        facts["classes of the target"] = list(schema.classes)
        facts["task columns"] = list(schema.task_columns)
        facts["columns"] = [
            {"name": column.name, "kind": column.kind, "about": _about(column)} for column in schema.columns
        ]
    return facts


def _about(column: Column) -> str:
    words = {
        "number": f"number, mean {column.mean:.4g}, standard deviation {column.scale:.4g}",
        "flag": f"true or false, {100 * column.mean:.0f} % true",
        "category": f"{len(column.levels)} names",
        "date": "date, becomes days",
        "text": f"text, {column.features} features by {column.encoder}",
    }[column.kind]
    return words + ", has gaps" * column.missing + ", constant in each task" * column.constant_in_task
