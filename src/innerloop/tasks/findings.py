"""Look at data before training: everything that is wrong at once, and what was understood.

An error is what training would refuse; a warning is what it would accept and what may make a score worthless;
a note is what was decided. The rules are those of training: here they are collected where training stops.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import Collector, InnerloopError, UsageError
from . import leaks
from .images import load_images
from .recognise import WANTED, open_tasks, recognise
from .sources import ClassSource, RowSource
from .splits import Tasks
from .tables.cells import listed, task_ids
from .tables.columns import Column
from .tables.reading import as_frame, read_table
from .tables.schema import Schema, target_kind, target_names

_WHERE = ("task", "column", "row", "file")


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Arguments:
        severity: `error`, `warning` or `note`.
        message: what was found and where.
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
        place = {key: value for key, value in error.place.items() if key in _WHERE}
        return Finding("error", message or fix, fix if message else "", **place)

    def __str__(self) -> str:
        """One line."""
        return f"{self.severity}: {self.message}{': ' if self.fix else ''}{self.fix}"


@dataclass(frozen=True)
class Report:
    """What `check` found.

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

    def to_dict(self) -> dict[str, Any]:
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
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    guard = Collector()
    layout = ""
    seen, warned = dict[str, Any](), list[Finding]()
    with guard():
        layout = recognise(data)
    ready: Any = data
    if layout in ("table", "folder of tables"):
        with guard():
            ready = _frame(data, given, guard)
            warned = _look_at(ready, given, guard, seen)
    elif layout == "images":
        with guard():
            load_images(Path(data), size=given.get("image_size"), skip_bad="skip_bad" in given, guard=guard)
    notes: tuple[str, ...] = ()
    if layout and not guard.found:
        with guard():
            tasks = open_tasks(ready, **_for_frame(given, data, layout))
            seen |= _understood(tasks)
            notes = tasks.notes
    findings = [*_unique(map(Finding.of, guard.found)), *warned]
    findings += [Finding("note", note) for note in notes]
    return Report(layout or None, tuple(findings), seen)


def _for_frame(given: dict[str, Any], data: Any, layout: str) -> dict[str, Any]:
    """A folder that was read is a frame with a task column."""
    if layout == "folder of tables" and "n_way" not in given:
        return {"task": "task"} | given
    return given


def _frame(data: Any, given: dict[str, Any], guard: Collector) -> pd.DataFrame:
    target = given.get("target")
    task = given.get("task") or (target if isinstance(target, str) else None)
    if not isinstance(data, str | Path):
        return as_frame(data, task=task, decimal=given.get("decimal", "."))
    folder = Path(data).is_dir() and "n_way" not in given
    task = given.get("task", "task") if folder else task
    return read_table(data, task=task, decimal=given.get("decimal", "."), guard=guard)


def _look_at(
    frame: pd.DataFrame, given: dict[str, Any], guard: Collector, seen: dict[str, Any]
) -> list[Finding]:
    """Go through ids, target and every column of a table; what is suspicious comes back."""
    seen |= {"rows": len(frame), "column names": [str(name) for name in frame.columns]}
    target = given.get("target")
    if target is None:
        return []  # `open_tasks` says so
    task = given.get("task") or ("task" if "task" in frame and "n_way" not in given else None)
    ids = None
    if task is None and "n_way" not in given:
        with guard():
            raise UsageError(f"{WANTED}; it has {listed(list(frame.columns), 12)}")
    if task is not None:
        with guard():
            ids = task_ids(frame, task)
            seen["tasks"] = len(set(ids))
    with guard():
        known = task if ids is not None else None
        seen["kind"] = target_kind(frame, target, given.get("kind"), task=known)
    if any(name not in frame for name in (*target_names(target), *filter(None, [task]))):
        return []
    choice: dict[str, Any] = {
        key: given[key] for key in ("features", "ignore", "categorical", "date_format") if key in given
    }
    columns: tuple[Column, ...] = ()
    with guard():
        whole = Schema.fit(
            frame, task=task if ids is not None else None, target=target, kind=seen.get("kind"), guard=guard,
            **(choice if ids is not None or task is None else _without(choice, task)),
        )  # fmt: skip
        columns = whole.columns
    return _suspicions(frame, task if ids is not None else None, ids, target, [c.name for c in columns])


def _without(choice: dict[str, Any], task: str) -> dict[str, Any]:
    """The same choice of columns for a table whose ids cannot be used."""
    if "features" in choice:
        return choice
    return choice | {"ignore": [*choice.get("ignore", ()), task]}


def _suspicions(
    frame: pd.DataFrame, task: str | None, ids: np.ndarray | None, target: Any, features: list[str]
) -> list[Finding]:
    found = []
    used = [*features, *target_names(target)]
    if task is not None and ids is not None and features:
        kept = frame[[task, *used]]
        for name, text in [
            *leaks.twin_values(frame, task, "task ids", "one task"),
            *leaks.repeated_rows(kept, task, ids),
            *leaks.copied_tasks(kept, task, ids),
        ]:
            found.append(_warning(text, task=name))
    for name in used:
        for _, text in leaks.twin_values(frame, name, f"in column {name!r} the values", "one name"):
            found.append(_warning(text, column=name))
        for text in leaks.stand_ins(frame, name):
            found.append(_warning(text, column=name))
    for each in target_names(target):
        for name, text in leaks.telling_columns(frame, each, features):
            found.append(_warning(text, column=name))
    return found


def _warning(text: str, **place: str) -> Finding:
    message, _, fix = text.rpartition(": ")
    return Finding("warning", message, fix, **place)


def _unique(findings: Iterable[Finding]) -> list[Finding]:
    return list(dict.fromkeys(findings))


def _understood(tasks: Tasks) -> dict[str, Any]:
    """What training would work with."""
    targets, source, schema = tasks.targets, tasks.train, tasks.schema
    found: dict[str, Any] = {"kind": targets.kind, "outputs": targets.n_outputs}
    unit = "classes" if isinstance(source, ClassSource) else "tasks"
    if tasks.splits:
        found["split"] = {part: len(names) for part, names in tasks.splits.items()}
        found[unit] = sum(found["split"].values())
    if isinstance(source, RowSource):
        sizes = np.concatenate([np.diff(part.starts) for part in (source, tasks.valid, tasks.test)])  # type: ignore[attr-defined]
        found["rows a task"] = f"{sizes.min()} to {sizes.max()}, median {int(np.median(sizes))}"
    found["support"] = f"{source.support} rows a {'class' if source.support.per_class else 'task'}"
    found["shape of a row"] = "x".join(map(str, tasks.feature_shape))
    if schema is not None:
        found["column names"] = []
        found["classes of the target"] = list(schema.classes)
        found["task columns"] = list(schema.task_columns)
        found["columns"] = [
            {"name": column.name, "kind": column.kind, "about": _about(column)} for column in schema.columns
        ]
    return found


def _about(column: Column) -> str:
    words = {
        "number": f"number, mean {column.mean:.4g}, standard deviation {column.scale:.4g}",
        "flag": f"true or false, {100 * column.mean:.0f} % true",
        "category": f"{len(column.levels)} names",
        "date": "date, becomes days",
    }[column.kind]
    return words + ", has gaps" * column.missing + ", constant in each task" * column.constant_in_task
