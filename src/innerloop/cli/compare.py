"""`innerloop compare`: does meta-learning help here? Against honest baselines, on the same episodes."""

from __future__ import annotations

import inspect
import shlex
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..errors import UsageError
from . import train as training
from .common import Notes, emit
from .drawn import Report, leave, require_report
from .options import (
    DATA,
    DATA_SETTINGS,
    OUTPUT,
    TRAINING,
    Device,
    Json,
    Quiet,
    data_options,
    names,
    network_options,
    option_name,
    read_tasks,
    require_place,
)
from .text import LABELS, cell, columns

if TYPE_CHECKING:
    from ..compare.result import Comparison
    from ..report import Page
    from ..tasks.splits import Tasks

COMPARISON = Group("Comparison", sort_key=2)
C, T = (Parameter(group=group) for group in (COMPARISON, TRAINING))

FOLDS = 5
# with this many tasks one split leaves enough of them to test
MANY_TASKS = 300
# rows of a random part of a table that has no tasks
SINGLE_ROWS = 40


def compare(
    tasks: Annotated[str, Parameter(help="As for innerloop train; a table without --task is one table.")],
    /,
    *,
    quick: Annotated[
        bool, C, Parameter(negative="", help="3 learners, 5 baselines, the support curve, 2 seeds.")
    ] = False,
    learners: Annotated[str | None, C, Parameter(help="Meta-learners: maml,ridge.")] = None,
    baselines: Annotated[str | None, C, Parameter(help="Baselines: pooled,mixed.")] = None,
    worthwhile: Annotated[str, C, Parameter(help="Smallest gain worth having, a share of the error.")] = "5%",
    folds: Annotated[
        int | None, C, Parameter(help="Folds over tasks; 5 under 300 tasks, else one split.")
    ] = None,
    seeds: Annotated[int | None, C, Parameter(help="Trainings of each method; 3, or 2 with --quick.")] = None,
    tries: Annotated[
        int | None, C, Parameter(help="Settings tried for each method; 4, or 2 with --quick.")
    ] = None,
    interval: Annotated[str, C, Parameter(help="Of each score: t or bca.")] = "t",
    model: Annotated[str | None, C, Parameter(help="Network of every net: mlp or conv4.")] = None,
    hidden: Annotated[str | None, C, Parameter(help="Its hidden widths (mlp): 40,40.")] = None,
    activation: Annotated[
        str | None, C, Parameter(help="Of its hidden units (mlp): tanh, relu, silu, gelu, sigmoid or sine.")
    ] = None,
    width: Annotated[int | None, C, Parameter(help="Its channels (conv4).")] = None,
    pool: Annotated[str | None, C, Parameter(help="Its pooling (conv4): stride or max.")] = None,
    steps: Annotated[int | None, T, Parameter(help="Meta-updates of every training.")] = None,
    seed: Annotated[int, T, Parameter(help="Of the split.")] = 0,
    device: Annotated[Device, T] = "auto",
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Folder of the results; runs/NAME-compare unless given.")
    ] = None,
    report: Report = None,
    json: Json = False,
    quiet: Quiet = False,
    **data: Any,
) -> None:
    """Find out whether meta-learning helps on your tasks, against honest baselines.

    Every method is scored on the same episodes of held-out tasks, with the same network and as many settings tried.
    The verdict says whether adapting to each task pays over one model for all, and whether a meta-learned net
    pays over a linear mixed model. Where it does not, it says so.

    Examples:
      innerloop compare schools.csv --task school --target exam --quick
      innerloop compare activity.csv --task user --target activity --n-shot 3
      innerloop compare schools.csv --task school --target exam --worthwhile 2%
      innerloop compare houses.csv --target price
    """
    own = {
        key: value for key, value in locals().items() if key not in ("report", "json", "quiet", "out", "data")
    }
    unset = {each.name: each.default for each in _data_options()}
    execute(unset | data | own, out=out, report=report, json=json, quiet=quiet)


def _data_options() -> list[inspect.Parameter]:
    """The options of `train` that say which tasks there are: one list for both verbs."""
    hints = typing.get_type_hints(training.train, include_extras=True)
    found = inspect.signature(training.train).parameters.values()
    return [
        each.replace(annotation=hints[each.name])
        for each in found
        if any(getattr(part, "group", ()) == (DATA,) for part in typing.get_args(hints[each.name]))
        and each.name != "folds"
    ]


def _with_data_options(verb: Callable[..., None]) -> None:
    """Write the data options into the signature that the command and its help are made from."""
    hints = typing.get_type_hints(verb, include_extras=True)
    first, *own = (
        each.replace(annotation=hints[each.name])
        for each in inspect.signature(verb).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    )
    every = [first, *_data_options(), *own]
    verb.__signature__ = inspect.Signature(every, return_annotation=None)  # type: ignore[attr-defined]
    verb.__annotations__ = {each.name: each.annotation for each in every}


_with_data_options(compare)


def execute(
    settings: dict[str, Any], *, out: Path | None, json: bool, quiet: bool, report: str | None = None
) -> Comparison:
    """Compare by settings, print, and leave `comparison.json` and a page in a folder."""
    from ..compare.comparison import compare as run
    from ..compare.comparison import plan_for
    from ..files import explained, write_bytes

    notes = Notes(quiet=quiet)
    least = share(settings["worthwhile"])
    _require_sense(settings)
    folds, clusters, single = read_folds(settings)
    name = folds[0].name
    place = out or Path("runs") / f"{name}-compare"
    require_place(place)
    require_report(report)
    for line in (repr(folds[0]), *(f"note: {note}" for note in folds[0].notes)):
        notes(line)
    plan = plan_for(
        folds[0],
        quick=settings["quick"],
        learners=names(settings["learners"]),
        baselines=names(settings["baselines"]),
        **{key: settings[key] for key in ("steps", "seeds", "tries", "device", "interval")},
        model=network_options(settings),
        worthwhile=least,
        single=single,
    )
    asked = {key: value for key, value in settings.items() if value is not None and value is not False}
    with progress(notes) as told:
        found = run(folds, plan, clusters=clusters, settings=asked | _command(settings), progress=told)
    with explained(place):
        place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / "comparison.json", found.to_json().encode())
    page = leave(report, place / "report.html", lambda: _page(found), notes)
    if json:
        place_of_page = None if page is None else str(page)
        emit(
            "compare", settings["seed"], notes, asked, out=str(place), report=place_of_page, **content(found)
        )
        return found
    show(found)
    if page is not None:
        print(f"page: {page}")
    print(f"everything as numbers: {place / 'comparison.json'}")
    return found


def _page(found: Comparison) -> Page:
    from ..report import comparison_page

    return comparison_page(found)


def read_folds(settings: Mapping[str, Any]) -> tuple[list[Tasks], dict[str, str] | None, bool]:
    """The tasks of every fold, the cluster of each task where they are split by one, and whether it is one table."""
    single = _is_single(settings)
    read = _reader_of_one_table(settings) if single else read_tasks
    given = dict(settings)
    first = read(given)
    count = settings["folds"]
    if count is None:
        named = first.splits and first.test.n_tasks is not None and settings["split"] is None
        units = len(_units(settings, first)) if named else 0
        count = FOLDS if FOLDS <= units < MANY_TASKS else 1
    if count == 1:
        return [first], _clusters(settings, first), single
    parts = [read(given | {"split": f"{number}/{count}"}) for number in range(1, count + 1)]
    return parts, _clusters(settings, first), single


def _units(settings: Mapping[str, Any], tasks: Tasks) -> set[str]:
    """What folds divide: tasks, or the values of a coarser column."""
    clusters = _clusters(settings, tasks)
    return set(clusters.values()) if clusters else {n for part in tasks.splits.values() for n in part}


def _clusters(settings: Mapping[str, Any], tasks: Tasks) -> dict[str, str] | None:
    if not settings.get("split_by"):
        return None
    from ..tasks.tables.cells import task_ids
    from ..tasks.tables.reading import as_frame

    frame = as_frame(Path(str(settings["tasks"])), task=settings["task"])
    pairs = zip(task_ids(frame, settings["task"]), task_ids(frame, settings["split_by"]), strict=True)
    return {str(task): str(cluster) for task, cluster in pairs}


def _is_single(settings: Mapping[str, Any]) -> bool:
    """A table with a target and neither a task column nor classes to draw tasks from."""
    path = Path(str(settings["tasks"]))
    wanted = settings["target"] and not (settings["task"] or settings["n_way"])
    return bool(wanted) and path.is_file() and path.suffix.lower() != ".npz"


def _reader_of_one_table(settings: Mapping[str, Any]) -> Callable[[dict[str, Any]], Tasks]:
    """Random parts of a table as its tasks: there is nothing to adapt to, and the methods should find that out."""
    import numpy as np

    from ..tasks.recognise import open_tasks
    from ..tasks.tables.reading import as_frame

    path = Path(str(settings["tasks"]))
    frame = as_frame(path)
    rows = max(4, min(SINGLE_ROWS, len(frame) // 10))
    order = np.random.default_rng(settings["seed"]).permutation(len(frame))
    column = "part of the table"
    parts = frame.assign(**{column: order // rows})

    def read(given: dict[str, Any]) -> Tasks:
        options = {
            key: given[key] for key in DATA_SETTINGS if key != "tasks" and given.get(key) not in (None, False)
        }
        return open_tasks(parts, **data_options(options | {"task": column})).renamed(path.stem)

    return read


def _require_sense(settings: Mapping[str, Any]) -> None:
    """Refuse what can be refused before any data is read."""
    for key, least in {"folds": 1, "seeds": 1, "tries": 1, "steps": 1, "seed": 0}.items():
        if settings[key] is not None and settings[key] < least:
            raise UsageError(f"{option_name(key)} {settings[key]}: give {least} or more")
    if settings["folds"] == 2:
        raise UsageError(
            "--folds 2: give 1, or 3 or more (each tests on one, validates on one, trains on others)"
        )
    if settings["folds"] not in (None, 1) and settings["split"] is not None:
        raise UsageError("--folds divides the tasks itself: leave --split out")


def share(text: str) -> float:
    """A share written `5%` or `0.05`.

    Raises:
        UsageError: it is neither.

    Example:
        >>> share("5%"), share("0.05")
        (0.05, 0.05)
    """
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if rest or not 0 <= value < 1:
        raise UsageError(f"--worthwhile {text}: give a share of the error such as 5% or 0.05")
    return value


def _command(settings: Mapping[str, Any]) -> dict[str, str]:
    """The command that asks the same again."""
    parts = ["innerloop", "compare", str(settings["tasks"])]
    for key, value in settings.items():
        if key == "tasks" or value is None or value is False or (key, value) in _DEFAULTS:
            continue
        parts += [option_name(key)] if value is True else [option_name(key), str(value)]
    return {"command": shlex.join(parts)}


_DEFAULTS = {("worthwhile", "5%"), ("interval", "t"), ("device", "auto"), ("seed", 0)}


def content(found: Comparison) -> dict[str, Any]:
    """What `--json` carries beside the head of every verb."""
    scores = [
        {
            "method": each.name,
            "split": "test",
            "n_support": found.data["support"],
            "inner_steps": None,
            "metric": metric,
            "mean": estimate.mean,
            "ci95": [estimate.low, estimate.high],
            "n_tasks": len(found.tasks),
            "headline": metric == found.metric,
        }
        for each in found.methods
        for metric, estimate in each.metrics.items()
    ]
    import json

    full = json.loads(found.to_json())
    kept = ("data", "skipped", "differences", "curves", "crossings", "cells", "effects")
    chosen = {each.name: {"kind": each.kind, "settings": each.settings} for each in found.methods}
    return {"verdict": found.verdict, "scores": scores, "methods": chosen} | {key: full[key] for key in kept}


def show(found: Comparison) -> None:
    """The comparison as text."""
    data = found.data
    unit = f"support {data['support']} a {data['unit']}"
    how = f"{data['folds']} folds, " if data["folds"] > 1 else ""
    over = f"{data['clusters']} clusters of tasks" if data["clusters"] else "tasks"
    print(f"{data['name']}: {data['n_tasks']} held-out tasks, {unit}, {how}{data['seeds']} seeds")
    print(f"{LABELS[found.metric]}, 95 % intervals over {over}; the same episodes for every method\n")
    print(columns([["", "kind", LABELS[found.metric], "settings chosen"], *_rows(found)]))
    for name, reason in found.skipped.items():
        print(f"{name} was skipped: {reason}")
    print(f"\n{found.verdict['sentence']}")


def _rows(found: Comparison) -> Iterator[list[str]]:
    for each in found.methods:
        chosen = ", ".join(f"{key}={value}" for key, value in each.settings.items())
        tried = f" (of {each.tried})" if each.tried > 1 else ""
        score = cell(tuple(each.metrics[found.metric]), found.metric)  # type: ignore[arg-type]
        yield [each.label, each.kind, score, f"{chosen or 'sound ones'}{tried}"]


@contextmanager
def progress(notes: Notes) -> Iterator[Callable[[str, float], None]]:
    """Tells what is done now and about how long the rest takes."""
    if notes.quiet:
        yield lambda what, part: None
        return
    began, last = time.perf_counter(), [-10.0]

    def told(what: str, part: float) -> None:
        taken = time.perf_counter() - began
        if taken - last[0] < 5 and part < 1:
            return
        last[0] = taken
        left = f", about {_duration(taken * (1 - part) / part)} left" if part > 0.02 else ""
        print(f"{100 * part:3.0f} %  {what}{left}", file=sys.stderr, flush=True)

    yield told


def _duration(seconds: float) -> str:
    """A time in words that one would say.

    Example:
        >>> _duration(45), _duration(700)
        ('45 s', '12 min')
    """
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
