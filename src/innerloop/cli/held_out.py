"""Held-out tasks for a model directory: the meta-test tasks of its training data, or tasks of another table.

A directory may come from anyone, and could name any file of this machine as its data. What nobody named on the
command line is opened only below the working folder, and only if it is what training saw, to the byte.
"""

from __future__ import annotations

import typing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, ModelFileError, UsageError
from .classes import read_classes
from .common import Notes, fingerprint
from .encoding import known_encoder
from .opening import read_tasks
from .options import DataOptions

if TYPE_CHECKING:
    from ..storage import Stored
    from ..tasks.sources import Source
    from ..tasks.splits import Tasks
    from ..tasks.tables.schema import Schema

__all__ = ["held_out"]

_MOST_ROWS = 100_000  # of a query set, or classes of an episode


def held_out(stored: Stored, tasks: str | None, notes: Notes) -> Source:
    """Meta-test tasks of the training data, or the tasks of another table that were not trained on."""
    from ..tasks.datasets import catalogue as datasets

    settings = _settings(stored)
    trained_on = settings.get("tasks")
    if trained_on is None and tasks is None:
        raise UsageError("this model directory does not say what it was trained on: give a table")
    seen = (stored.config["data"] or {}).get("sha256")
    built_in = trained_on in datasets.DATASETS
    if tasks is None and not built_in:
        _require_near(stored, str(trained_on), seen)
    if tasks is None or tasks == trained_on or (seen is not None and fingerprint(tasks)["sha256"] == seen):
        place = str(trained_on) if tasks is None else tasks
        if seen is not None and not built_in:
            _require_unchanged(Path(place), seen)
        return _meta_test(stored, place, settings)
    if stored.inputs is not None:
        return _other_classes(stored, tasks, settings, notes)
    if stored.schema is None:
        raise UsageError(f"this model was trained on {trained_on!r}, which is no table: leave TASKS out")
    return _other_table(stored, tasks, settings, notes)


def _settings(stored: Stored) -> dict[str, Any]:
    """The settings of a directory, those that are read here of the types and sizes that they may have."""
    from ..storage.plain_json import DAMAGED
    from ..storage.plain_types import fits

    settings = stored.config["settings"]
    number = int | None
    hints = {**typing.get_type_hints(DataOptions), "tasks": str | None, "seed": number, "n_query": number}
    for key in hints.keys() & settings.keys():
        value = settings[key]
        least, most = {"seed": (0, 2**53), "n_query": (1, _MOST_ROWS), "n_way": (1, _MOST_ROWS)}.get(
            key, (None, 0)
        )
        sound = fits(value, hints[key])
        if not sound or (least is not None and value is not None and not least <= value <= most):
            raise ModelFileError(f"{stored.path / 'config.json'}: no run has {key}={value!r:.40}; {DAMAGED}")
    return settings


def _require_near(stored: Stored, trained_on: str, seen: str | None) -> None:
    """Refuse to open data that only the directory names, unless they lie below the working folder and can be told."""
    path = Path(trained_on)
    try:
        path.exists()  # a name may be longer than any file's
        below = path.resolve().is_relative_to(Path.cwd())
    except (OSError, ValueError):
        below = False
    if seen is None or not below:
        raise UsageError(
            f"{stored.path} names {trained_on} as its training data; such data are read unasked only below the working "
            "folder and only unchanged: give them as TASKS"
        )


def _require_unchanged(path: Path, seen: str) -> None:
    """Refuse training data that is not what it was."""
    if not path.exists():
        raise DataError(f"{path}, which the model was trained on, is gone: give its new place as TASKS")
    if fingerprint(path)["sha256"] != seen:
        raise DataError(
            f"{path} has changed since training, so its meta-test tasks may have too: give it as TASKS under "
            "another name to score its unseen tasks"
        )


def _meta_test(stored: Stored, place: str, settings: dict[str, Any]) -> Source:
    """Meta-test tasks of the training data, which lie at a place."""
    on_disk = Path(place).exists()
    if stored.schema is not None and not stored.schema.as_written and on_disk:
        return _as_before(stored, Path(place), stored.schema)
    options = DataOptions.of(settings)
    known_encoder(options.encoder)  # the directory names it, and only the user may ask for it
    of_tasks = stored.schema is not None and stored.schema.task is not None
    if options.rare is None and of_tasks and on_disk:
        options = replace(options, rare=0)  # a directory from before levels were taken together
    tasks = read_tasks(place, options, settings.get("seed"))
    _require_those_of_training(stored, tasks)
    return tasks.test


def _require_those_of_training(stored: Stored, tasks: Tasks) -> None:
    """Refuse tasks that are not what the model takes: the settings of the directory were changed."""
    from ..storage.plain_json import DAMAGED

    known, found, targets = stored.schema, tasks.schema, stored.targets
    same = (known is None) == (found is None)
    if known is not None and found is not None:
        same = [c.name for c in known.columns] == [c.name for c in found.columns]
        same = same and (known.n_features, known.kind) == (found.n_features, found.kind)
    if targets is not None:
        same = same and targets.kind == tasks.targets.kind
    if not same:
        raise ModelFileError(
            f"{stored.path / 'config.json'}: its settings make other tasks than the model was trained on; {DAMAGED}"
        )


def _as_before(stored: Stored, path: Path, schema: Schema) -> Source:
    """Meta-test tasks of a directory whose schema says how tables were read when it was trained."""
    from ..tasks import classes_from_schema, from_schema
    from ..tasks.n_way import default_way
    from ..tasks.tables.reading import as_frame

    settings, support = _settings(stored), stored.support
    if support is None:
        raise UsageError("this model directory does not hold what its columns mean")
    frame, names = as_frame(path, reading=schema.reading), (stored.config["splits"] or {}).get("test")
    if schema.task is not None:
        return from_schema(frame, schema, names, support, n_query=settings.get("n_query") or 32)
    n_query = settings.get("n_query")
    if n_query is None:
        labels, seed = frame[schema.target].dropna(), int(settings.get("seed") or 0)
        n_query = default_way(labels, None, n_shot=str(support), seed=seed)["n_query"]
    return classes_from_schema(
        frame, schema, names, n_way=_way(stored, settings), support=support, n_query=int(n_query)
    )


def _other_table(stored: Stored, tasks: str, settings: dict[str, Any], notes: Notes) -> Source:
    from ..tasks import classes_from_schema, from_schema
    from ..tasks.messages import listed
    from ..tasks.tables.cells import task_ids
    from ..tasks.tables.reading import as_frame

    schema, support = stored.schema, stored.support
    if schema is None or support is None:
        raise UsageError("this model directory does not hold what its columns mean")
    frame = as_frame(Path(tasks), reading=schema.reading)
    names = (
        task_ids(frame, schema.task).astype(str)
        if schema.task
        else frame[schema.target].astype(str).to_numpy()
    )
    every = {str(name) for name in names}
    known = {name for name in every if stored.split_of(name) in ("train", "valid")}
    # `1.0` for `1`, another case or another Unicode form: scored as new, they would be tasks that were trained on
    twins = sorted(filter(stored.resembles_trained, every - known) if schema.task else ())
    if known:
        notes(f"note: {len(known)} tasks of {tasks} were trained on and are left out")
    if twins:
        notes(
            f"note: {len(twins)} tasks of {tasks} look like tasks that were trained on, written otherwise "
            f"({listed(twins, 3)}), and are left out: give them other names if they are new"
        )
    if known or twins:
        away = {*known, *twins}
        frame = frame[[name not in away for name in names]]
        if frame.empty:
            raise DataError(f"{tasks}: every task in it was trained on; give other tasks, or leave TASKS out")
    if schema.task is None:
        return classes_from_schema(frame, schema, None, n_way=_way(stored, settings), support=support)
    return from_schema(frame, schema, None, support)


def _other_classes(stored: Stored, tasks: str, settings: dict[str, Any], notes: Notes) -> Source:
    """The classes of another folder or array that training has not met."""
    import numpy as np

    from ..tasks.n_way import class_source

    support = stored.support
    if support is None:
        raise UsageError("this model directory does not say how many rows form a support set")
    rows = read_classes(stored, Path(tasks), notes, skip_bad=bool(settings.get("skip_bad")))
    every = {str(label) for label in rows.labels[rows.labelled]}
    known = {name for name in every if stored.split_of(name) in ("train", "valid")}
    if known:
        notes(
            f"note: {len(known)} classes of {tasks} are called as classes that were trained on and are left out"
        )
    chosen = [label is not None and label not in known for label in rows.labels.tolist()]
    if not any(chosen):
        raise DataError(f"{tasks}: every class in it was trained on; give other classes, or leave TASKS out")
    rows = rows.some(np.array(chosen))
    n_way = stored.targets.n_outputs if stored.targets else _way(stored, settings)
    n_query = settings.get("n_query")
    return class_source(
        rows.x, rows.labels.astype(str), n_way=n_way, support=support, n_query=n_query and int(n_query)
    )


def _way(stored: Stored, settings: dict[str, Any]) -> int:
    """How many classes an episode has."""
    if settings.get("n_way") is None:
        raise UsageError(f"{stored.path} does not say how many classes its episodes have: train it again")
    return int(settings["n_way"])
