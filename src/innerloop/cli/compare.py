"""`innerloop compare`: does meta-learning help here? Against honest baselines, on the same episodes."""

from __future__ import annotations

import json as json_module
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from ..errors import UsageError
from .common import Notes, emit
from .compared_tasks import read_folds
from .opening import names
from .options import OUTPUT, TRAINING, DataOptions, Device, Json, NetworkOptions, Options, Quiet, about
from .pages import Report, command_line, leave, require_report
from .refusals import require_least, require_place
from .text import LABELS, cell, columns, say

if TYPE_CHECKING:
    from ..compare.result import Comparison
    from ..report import Page

__all__ = ["compare", "duration", "progress", "show"]

COMPARISON = Group("Comparison", sort_key=2)


@Parameter(name="*", group=COMPARISON)
@dataclass(frozen=True, kw_only=True)
class ComparedNetwork(NetworkOptions):
    """The network of every net."""

    model: Annotated[str | None, about("Network of every net: mlp or conv4.")] = None
    hidden: Annotated[str | None, about("Its hidden widths (mlp): 40,40.")] = None
    activation: Annotated[
        str | None, about("Of its hidden units (mlp): tanh, relu, silu, gelu, sigmoid or sine.")
    ] = None
    width: Annotated[int | None, about("Its channels (conv4).")] = None
    pool: Annotated[str | None, about("Its pooling (conv4): stride or max.")] = None


@Parameter(name="*", group=COMPARISON)
@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(Options):
    """What is compared, and how often."""

    quick: Annotated[
        bool, Parameter(negative="", help="3 learners, 7 baselines, the support curve, 2 seeds.")
    ] = False
    learners: Annotated[str | None, about("Meta-learners: maml,ridge.")] = None
    baselines: Annotated[str | None, about("Baselines: pooled,mixed.")] = None
    worthwhile: Annotated[str, about("Smallest gain worth having, a share of the error.")] = "5%"
    folds: Annotated[
        int | None, about("Folds over tasks; 5, so that every task is tested, unless given.")
    ] = None
    seeds: Annotated[int | None, about("Trainings of each method; 3, or 2 with --quick.")] = None
    tries: Annotated[int | None, about("Settings tried for each method; 4, or 2 with --quick.")] = None
    interval: Annotated[str, about("Of each score: t or bca.")] = "t"
    jobs: Annotated[
        int | None, about("Processes that methods are shared out among; as many as cores unless given.")
    ] = None
    network: ComparedNetwork = ComparedNetwork()


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class ComparedTraining(Options):
    """Every training of the comparison."""

    steps: Annotated[int | None, about("Meta-updates of every training.")] = None
    seed: Annotated[int, about("Of the split.")] = 0
    device: Device = "auto"


def compare(
    tasks: Annotated[str, about("As for innerloop train; a table without --task is one table.")],
    /,
    *,
    data: DataOptions = DataOptions(),
    comparison: ComparisonOptions = ComparisonOptions(),
    training: ComparedTraining = ComparedTraining(),
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Folder of the results; runs/NAME-compare unless given.")
    ] = None,
    report: Report = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find out whether meta-learning helps on your tasks, against honest baselines.

    Every method is scored on the same episodes of held-out tasks, with the same network and as many settings tried.
    The verdict says whether meta-learning pays over the best of what one would do without it (a linear mixed model,
    a Gaussian process, boosting), and whether adapting to each task pays over one model for all. Where it does not,
    it says so. Interrupted, it writes what is done, and leaves with 130.

    Examples:
      innerloop compare schools.csv --task school --target exam --quick
      innerloop compare activity.csv --task user --target activity --n-shot 3
      innerloop compare schools.csv --task school --target exam --worthwhile 2%
      innerloop compare houses.csv --target price
    """
    from ..compare.comparison import compare as run
    from ..compare.comparison import plan_for
    from ..compare.workers import available_cores
    from ..files import explained, write_bytes

    notes = Notes(quiet=quiet)
    worthwhile = share(comparison.worthwhile)
    _require_sense(data, comparison, training)
    folds = read_folds(tasks, data, folds=comparison.folds, seed=training.seed)
    first = folds.tasks[0]
    folder = out or Path("runs") / f"{first.name}-compare"
    require_place(folder)
    require_report(report)
    for line in (repr(first), *(f"note: {note}" for note in first.notes)):
        notes(line)
    plan = plan_for(
        first,
        quick=comparison.quick,
        learners=names(comparison.learners),
        baselines=names(comparison.baselines),
        steps=training.steps,
        seeds=comparison.seeds,
        tries=comparison.tries,
        device=training.device,
        interval=comparison.interval,
        model=comparison.network.arguments(),
        worthwhile=worthwhile,
        single=folds.single,
    )
    options = data.given() | comparison.given() | training.given()
    command = {key: value for key, value in options.items() if (key, value) not in _DEFAULTS}
    settings = options | {"tasks": tasks}
    with progress(notes) as tell:
        result = run(
            folds.tasks,
            plan,
            clusters=folds.clusters,
            settings=settings | {"command": command_line("compare", command, tasks)},
            progress=tell,
            jobs=comparison.jobs or available_cores(),
        )
    result = replace(result, settings=result.settings | {"next": _next(result, tasks, data, training)})
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "comparison.json", result.to_json().encode())
    page = leave(report, folder / "report.html", lambda: _page(result), notes)
    if json:
        shown = None if page is None else str(page)
        emit("compare", training.seed, notes, settings, out=str(folder), report=shown, **content(result))
    else:
        show(result)
        if page is not None:
            say(f"page: {page}")
        say(f"everything as numbers: {folder / 'comparison.json'}")
    if result.interrupted:
        raise KeyboardInterrupt


def _next(result: Comparison, tasks: str, data: DataOptions, training: ComparedTraining) -> str:
    """The command that trains the best method: the first of those not surely worse that `train` knows."""
    from ..algorithms import ALGORITHMS

    known = {"mixed_squares": {"algorithm": "mixed", "squares": True}, "auto": {}}
    known |= {name: {"algorithm": name} for name in ALGORITHMS}
    best = next((each.name for each in result.methods if each.name in known), None)
    if best is None:
        return ""
    own = {key: value for key, value in training.given().items() if (key, value) not in _DEFAULTS}
    return command_line("train", data.given() | known[best] | own, tasks)


_DEFAULTS = {("worthwhile", "5%"), ("interval", "t"), ("device", "auto"), ("seed", 0)}


def _page(result: Comparison) -> Page:
    from ..report import comparison_page

    return comparison_page(result)


def _require_sense(data: DataOptions, comparison: ComparisonOptions, training: ComparedTraining) -> None:
    """Refuse what can be refused before any data is read."""
    least = {"folds": 1, "seeds": 1, "tries": 1, "steps": 1, "seed": 0}
    require_least(comparison.settings() | training.settings(), least)
    if comparison.folds == 2:
        raise UsageError(
            "--folds 2: give 1, or 3 or more (each tests on one, validates on one, trains on others)"
        )
    if comparison.folds not in (None, 1) and data.split is not None:
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


def content(result: Comparison) -> dict[str, object]:
    """What `--json` carries beside the head of every verb."""
    scores = [
        {
            "method": each.name,
            "split": "test",
            "n_support": result.data["support"],
            "inner_steps": None,
            "metric": metric,
            "mean": estimate.mean,
            "ci95": [estimate.low, estimate.high],
            "n_tasks": len(result.tasks),
            "headline": metric == result.metric,
        }
        for each in result.methods
        for metric, estimate in each.metrics.items()
    ]
    full = json_module.loads(result.to_json())
    shared = ("data", "skipped", "differences", "curves", "crossings", "cells", "effects")
    chosen = {each.name: {"kind": each.kind, "settings": each.settings} for each in result.methods}
    return {"verdict": result.verdict, "scores": scores, "methods": chosen} | {
        key: full[key] for key in shared
    }


def show(result: Comparison) -> None:
    """The comparison as text."""
    data = result.data
    unit = f"support {data['support']} a {data['unit']}"
    how = f"{data['folds']} folds, " if data["folds"] > 1 else ""
    over = f"{data['clusters']} clusters of tasks" if data["clusters"] else "tasks"
    say(f"{data['name']}: {data['n_tasks']} held-out tasks, {unit}, {how}{data['seeds']} seeds")
    say(f"{LABELS[result.metric]}, 95 % intervals over {over}; the same episodes for every method\n")
    say(columns([["", "kind", LABELS[result.metric], "settings chosen"], *_rows(result)]))
    for name, reason in result.skipped.items():
        say(f"{name} was skipped: {reason}")
    for note in result.notes[-1:] if result.interrupted else ():
        say(note)
    say(f"\n{result.verdict['sentence']}")
    if result.settings.get("next"):
        say(f"to train the best of them: {result.settings['next']}")


def _rows(result: Comparison) -> Iterator[list[str]]:
    for each in result.methods:
        chosen = ", ".join(f"{key}={value}" for key, value in each.settings.items())
        tried = f" (of {each.tried})" if each.tried > 1 else ""
        score = cell(each.metrics[result.metric], result.metric)
        yield [each.label, each.kind, score, f"{chosen or 'sound ones'}{tried}"]


@contextmanager
def progress(notes: Notes) -> Iterator[Callable[[str, float], None]]:
    """Tells what is done now and about how long the rest takes."""
    if notes.quiet:
        yield lambda what, part: None
        return
    began, last = time.perf_counter(), -10.0

    def tell(what: str, part: float) -> None:
        nonlocal last
        taken = time.perf_counter() - began
        if taken - last < 5 and part < 1:
            return
        last = taken
        left = f", about {duration(taken * (1 - part) / part)} left" if part > 0.02 else ""
        say(f"{100 * part:3.0f} %  {what}{left}", file=sys.stderr)

    yield tell


def duration(seconds: float) -> str:
    """A time in words that one would say.

    Example:
        >>> duration(45), duration(700)
        ('45 s', '12 min')
    """
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
