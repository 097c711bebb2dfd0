"""`innerloop evaluate`: scores of a model directory on held-out tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import DataError, UsageError
from .classes import read_classes
from .common import Notes, emit, fingerprint, stored_run
from .opening import read_tasks
from .options import DataOptions, Device, Json, Quiet, Steps
from .pages import Report, command_line, leave, require_report
from .refusals import require_steps
from .text import batchnorm_line, dependence_text, interval_line, labels_table, scored, steps_table

if TYPE_CHECKING:
    from ..evaluation.scores import Evaluation
    from ..report import Page
    from ..storage import Stored
    from ..tasks.sources import Source
    from ..tasks.tables.schema import Schema

__all__ = ["evaluate", "held_out"]


def evaluate(
    directory: Annotated[Path, Parameter(help="What innerloop train left.")],
    tasks: Annotated[
        str | None,
        Parameter(
            help="A table with the columns of training, or a folder of classes; the training data unless given."
        ),
    ] = None,
    /,
    *,
    inner_steps: Steps = None,
    device: Device = "auto",
    report: Report = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on tasks it has not met, by number of inner steps.

    Without TASKS these are the meta-test tasks of its training data. Of another table they are all tasks
    that training has not met. A page with pictures of the scores and of what was learned is left beside the
    directory.

    Examples:
      innerloop evaluate runs/schools
      innerloop evaluate runs/schools --report schools.html
      innerloop evaluate runs/schools --inner-steps 10
      innerloop evaluate runs/schools other_schools.csv --json
      innerloop evaluate runs/goods other_goods/
    """
    from ..evaluation.labels import by_labels
    from ..evaluation.scores import evaluate as score
    from ..evaluation.scores import query_dependence
    from ..outer.placement import placed

    notes = Notes(quiet=quiet)
    require_steps(inner_steps)
    require_report(report)
    stored = stored_run(directory, device)
    if stored.kind == "adapted":
        raise UsageError(f"{directory} holds adapted tasks: evaluate the run they were adapted from")
    source = held_out(stored, tasks, notes)
    model, where = placed(stored.model, source, device)
    stored = replace(stored, model=model)
    if where.decided:
        notes(f"device: {where}")
    scores = score(stored.model, source, steps=inner_steps, calibration=stored.calibration)
    dependence = query_dependence(stored.model, source)
    labels = by_labels(stored.model, source)
    learner = stored.config["learner"]
    method = str(learner["algorithm"])
    paths = [str(directory), *([] if tasks is None else [tasks])]
    command = command_line("evaluate", {"inner_steps": inner_steps}, *paths)
    named = directory if directory.name else directory.resolve()
    beside = named.with_name(f"{named.name}-evaluate{f'-{Path(tasks).stem}' if tasks else ''}.html")
    page = leave(report, beside, lambda: _page(stored, source, scores, command, tasks, labels), notes)
    if json:
        settings = {"directory": str(directory), "tasks": tasks, "inner_steps": inner_steps}
        settings |= {"batchnorm": learner["settings"].get("batchnorm")}
        emit(
            "evaluate", stored.config["settings"].get("seed"), notes, settings, scores=scores.scores(method),
            by_labels=[row for each in labels.values() for row in each.scores(method)],
            query_dependence=dependence, report=None if page is None else str(page),
            calibration_tasks=stored.calibration and stored.calibration.n_tasks,
        )  # fmt: skip
        return
    print(f"{method}: {scored(scores, source)}")
    print(batchnorm_line(stored.model.learner) + steps_table(scores))
    print(interval_line(scores, stored.calibration))
    if labels:
        print(labels_table(labels))
    print(f"a prediction {dependence_text(dependence)}")
    if page is not None:
        print(f"page: {page}")


def _page(
    stored: Stored,
    source: Source,
    scores: Evaluation,
    command: str,
    tasks: str | None,
    labels: Mapping[int, Evaluation],
) -> Page:
    """The scores as a page."""
    from ..report import Scored, scored_page

    config = stored.config
    return scored_page(
        Scored(
            method=str(config["learner"]["algorithm"]),
            data=Path(str(tasks or config["settings"].get("tasks"))).stem,
            model=stored.model,
            source=source,
            scores=scores,
            schema=stored.schema,
            log=stored.log,
            best_step=config["best_step"],
            settings=config["settings"],
            versions=config["versions"],
            command=command,
            labels=labels,
        )
    )


def held_out(stored: Stored, tasks: str | None, notes: Notes) -> Source:
    """Meta-test tasks of the training data, or the tasks of another table that were not trained on."""
    settings = stored.config["settings"]
    trained_on = settings.get("tasks")
    if trained_on is None and tasks is None:
        raise UsageError("this model directory does not say what it was trained on: give a table")
    if tasks is None or tasks == trained_on:
        _require_unchanged(stored)
        if stored.schema is not None and not stored.schema.as_written and Path(str(trained_on)).exists():
            return _as_before(stored, Path(str(trained_on)), stored.schema)
        options = DataOptions.of(settings)
        of_tasks = stored.schema is not None and stored.schema.task is not None
        if options.rare is None and of_tasks and Path(str(trained_on)).exists():
            options = replace(options, rare=0)  # a directory from before levels were taken together
        return read_tasks(str(trained_on), options, settings.get("seed")).test
    if stored.inputs is not None:
        return _other_classes(stored, tasks, notes)
    if stored.schema is None:
        raise UsageError(f"this model was trained on {trained_on!r}, which is no table: leave TASKS out")
    return _other_table(stored, tasks, notes)


def _as_before(stored: Stored, path: Path, schema: Schema) -> Source:
    """Meta-test tasks of a directory whose schema says how tables were read when it was trained."""
    from ..tasks import classes_from_schema, from_schema
    from ..tasks.n_way import default_way
    from ..tasks.tables.reading import as_frame

    settings, support = stored.config["settings"], stored.support
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
        frame, schema, names, n_way=int(settings["n_way"]), support=support, n_query=int(n_query)
    )


def _other_table(stored: Stored, tasks: str, notes: Notes) -> Source:
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
        return classes_from_schema(
            frame, schema, None, n_way=int(stored.config["settings"]["n_way"]), support=support
        )
    return from_schema(frame, schema, None, support)


def _other_classes(stored: Stored, tasks: str, notes: Notes) -> Source:
    """The classes of another folder or array that training has not met."""
    import numpy as np

    from ..tasks.n_way import class_source

    support, settings = stored.support, stored.config["settings"]
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
    n_way = stored.targets.n_outputs if stored.targets else int(settings["n_way"])
    n_query = settings.get("n_query")
    return class_source(
        rows.x, rows.labels.astype(str), n_way=n_way, support=support, n_query=n_query and int(n_query)
    )


def _require_unchanged(stored: Stored) -> None:
    """Refuse training data that is not what it was."""
    data = stored.config["data"] or {}
    if data.get("sha256") is None:
        return
    path = Path(str(data.get("name")))
    if not path.is_file():
        raise DataError(f"{path}, which the model was trained on, is gone: give its new place as TASKS")
    if fingerprint(path)["sha256"] != data["sha256"]:
        raise DataError(
            f"{path} has changed since training, so its meta-test tasks may have too: give it as TASKS under "
            "another name to score its unseen tasks"
        )
